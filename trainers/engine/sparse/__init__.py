"""Training a few entries of a weight: their optimizer, and the norm that keeps them of low rank."""
