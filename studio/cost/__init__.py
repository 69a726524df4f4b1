"""What a base's passes cost, before they are made."""
