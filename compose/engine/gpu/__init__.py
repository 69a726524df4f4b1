"""What a GPU has, and how it is used: its memory, and its launches."""
