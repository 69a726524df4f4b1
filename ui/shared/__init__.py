"""Modules that the command line, the web page and the workers share."""
