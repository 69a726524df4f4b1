"""The memory and time that a picture will take, estimated before its first step."""
