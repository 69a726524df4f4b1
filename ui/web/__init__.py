"""The web page: layout and events only.

What it shows is read from the workspace, and what it starts is queued there for the workers. So a
page, a reload and a restarted server all show the same.
"""
