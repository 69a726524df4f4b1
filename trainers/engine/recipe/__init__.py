"""The options of a training and their text form."""
