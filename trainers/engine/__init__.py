"""The training engine that all kinds share: loop, data, optimizers, estimates, run folders."""
