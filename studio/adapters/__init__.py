"""Adapters: named weight changes (deltas) and the files that hold them."""
