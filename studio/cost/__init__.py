"""Estimate what passes through a base cost, before they run."""
