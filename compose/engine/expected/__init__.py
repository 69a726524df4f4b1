"""What a picture will take of memory and time, before its first step."""
