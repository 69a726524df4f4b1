"""What the user can mend, said in one sentence, and what damaged files raise."""

import struct

__all__ = ["PICTURE_ERRORS", "BadInput", "Stopped"]

# What Pillow's decoders raise for a damaged file.
PICTURE_ERRORS = (OSError, EOFError, SyntaxError, ValueError, struct.error)


class BadInput(ValueError):
    """What was given is wrong; the message says what, and what to do about it."""


class Stopped(Exception):
    """The user asked for an end before the work was done."""
