"""Estimate the time, memory and disk space of a training before it starts."""
