"""Where in a picture each of several predictions counts: masks that are drawn, or found."""
