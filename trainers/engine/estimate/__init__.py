"""Time and memory of a training, before it starts."""
