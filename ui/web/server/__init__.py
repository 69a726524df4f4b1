"""The server: app, security, polling, theme and API."""
