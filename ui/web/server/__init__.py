"""The server of the page: app, security, polling, downloads and theme."""
