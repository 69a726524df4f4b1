"""The worker processes behind the queue."""
