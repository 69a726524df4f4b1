"""The errors that users see, and those that damaged pictures raise."""

import struct

# What Pillow's decoders raise for a damaged file.
PICTURE_ERRORS = (OSError, EOFError, SyntaxError, ValueError, struct.error)


class BadInput(ValueError):
    """The input is wrong. The message says what is wrong, and what to do about it."""


class Stopped(Exception):
    """The user stopped the work before it was done."""
