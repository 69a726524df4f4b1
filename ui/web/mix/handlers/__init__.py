"""The event handlers of the tab Mix. Each reads the workspace or queues a job.

A handler is given the values of the components, and answers with those that change. It keeps
nothing: what there is to know is in the workspace and in the components.
"""
