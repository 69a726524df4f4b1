"""The drawn world that the sketch bases learn."""
