"""The event handlers of the tab Mix. Each reads the workspace or queues a job.

A handler is given the values of components and returns those that change. Handlers keep no state:
it is all in the workspace and in the components.
"""
