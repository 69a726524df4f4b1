"""The training engine of all kinds: the loop, its data, optimizers, estimates and run folders."""
