"""The tab Mix."""
