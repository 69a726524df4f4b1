"""Many trainings from one file."""
