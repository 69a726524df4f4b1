"""Many shots at once."""
