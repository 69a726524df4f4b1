"""Training data: folders, pictures, captions and masks."""
