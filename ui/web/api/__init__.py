"""The API for programs: an endpoint is a method, in the module of what it is about."""
