"""Commands that train adapters, and what prepares or compares trainings."""
