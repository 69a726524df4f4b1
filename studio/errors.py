"""The errors that users see."""

import errno
import re
from collections.abc import Sequence

# ASCII and C1 control characters, but not tab and line feed; surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
MOST_SAID = 20  # the most mistakes that one message names

# System errors that the user can put right: a path that cannot be written, or a full disk.
DISK_ERRORS = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


class BadInput(ValueError):
    """The input is wrong. The message says what is wrong, and what to do about it.

    It may quote a stranger's file, so characters that a terminal would obey are replaced.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(clean_text(str(message)))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it without its class's own arguments, so that every process can raise it anew."""
        return _anew, (type(self), self.args), vars(self)


def _anew(of: type[BadInput], arguments: tuple[object, ...]) -> BadInput:
    return of.__new__(of, *arguments)


def clean_text(text: str) -> str:
    """The text with U+FFFD in place of control characters and halves of characters (surrogates).

    Tabs and line ends stay.
    """
    return UNPRINTABLE.sub("\ufffd", text)


def reason_of(error: Exception) -> str:
    """The first line of an error's message, or else the error's name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def join_errors(errors: Sequence[BadInput]) -> BadInput:
    """One error with a line for each of several; equal sentences come once."""
    lines = list(dict.fromkeys(map(str, errors)))
    if len(lines) == 1:
        return errors[0]
    more = len(lines) - MOST_SAID
    tail = [f"and {more} more."] if more > 0 else []
    return BadInput("\n  ".join([f"{len(lines)} mistakes:", *lines[:MOST_SAID], *tail]))


class Stopped(Exception):
    """The user stopped the work before it was done."""


def disk_refusal(error: OSError) -> "BadInput | None":
    """A system error as a sentence; None for an error that the user cannot put right."""
    if error.errno not in DISK_ERRORS:
        return None
    return BadInput(f"{error.filename or 'the disk'}: {error.strerror}")
