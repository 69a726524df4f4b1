"""Train a few entries of each weight: an optimizer for them, and the norm that keeps rank low."""
