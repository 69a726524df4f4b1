"""What distillations share: the base as its own teacher, and its trajectories."""
