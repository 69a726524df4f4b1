"""What a training writes: its run folder, its checkpoints, its events for TensorBoard."""
