"""The worker processes that run the jobs of the queue."""
