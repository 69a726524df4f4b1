"""What all kinds of adapters share: the optimisation loop and what it needs."""
