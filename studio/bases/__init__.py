"""Bases: opening a frozen text-to-image model, and what is known of one."""
