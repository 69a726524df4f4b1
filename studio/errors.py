"""What the user can mend, said in one sentence."""

__all__ = ["BadInput", "Stopped"]


class BadInput(ValueError):
    """What was given is wrong; the message says what, and what to do about it."""


class Stopped(Exception):
    """The user asked for an end before the work was done."""
