"""The errors that users see."""

import errno
import re

# ASCII's control characters without tab and line feed, C1's, and surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


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

    It may quote a file of anybody's, so characters that a terminal would obey are taken out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(clean_text(str(message)))


def clean_text(text: str) -> str:
    """The text with U+FFFD in place of characters that cannot be printed or kept.

    Those are halves of characters (surrogates), and control characters but tabs and line ends.
    """
    return UNPRINTABLE.sub("\ufffd", text)


def reason_of(error: Exception) -> str:
    """The first line of an error's message, or else the error's name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Stopped(Exception):
    """The user stopped the work before it was done."""


def disk_refusal(error: OSError) -> "BadInput | None":
    """A system error as a sentence; None for an error that the user cannot put right."""
    if error.errno not in DISK_ERRORS:
        return None
    return BadInput(f"{error.filename or 'the disk'}: {error.strerror}")
