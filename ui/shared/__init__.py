"""What the commands and the pages share."""
