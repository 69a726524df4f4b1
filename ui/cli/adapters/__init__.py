"""Commands on adapter files."""
