"""The job queue in the workspace's SQLite file."""
