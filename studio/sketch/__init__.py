"""A small drawn world and the tiny text-to-image bases that learn it."""
