"""Commands that make pictures, or show their cost."""
