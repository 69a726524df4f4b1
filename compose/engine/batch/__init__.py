"""Drawing many shots: groups, batch sizes, an estimate, rendering."""
