"""The API for programs. Each endpoint is a method of a class of endpoints."""
