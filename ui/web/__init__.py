"""The web pages: layout and wiring only. What they show is read from the workspace, what they start
is queued there for the workers, so a page, a reload and a server that is started again all show
the same."""
