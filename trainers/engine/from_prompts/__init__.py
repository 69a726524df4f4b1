"""What kinds share that learn from prompts and from what the base itself makes of them."""
