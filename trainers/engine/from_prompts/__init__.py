"""What the kinds share that learn from prompts and the base itself, not from pictures."""
