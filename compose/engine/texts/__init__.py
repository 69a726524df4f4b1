"""What prompts say under a mix: learned words, words to avoid, and what trigger words change."""
