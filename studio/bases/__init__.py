"""Bases: open and run a frozen text-to-image model."""
