"""`python -m ui.cli`, for launchers that start modules."""

from ui.cli.app import main

main()
