"""Regions of a picture and their masks: drawn by the user, or found by attention."""
