"""Commands that make pictures, or show what they would cost."""
