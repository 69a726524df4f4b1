"""Texts under a mix: learned words, words to avoid, and the effect of trigger words."""
