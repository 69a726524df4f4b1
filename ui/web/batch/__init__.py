"""The tab Batch."""
