"""Names in a workspace: only such as every operating system permits for a file."""

import unicodedata
from collections.abc import Iterator
from itertools import count

from studio.errors import BadInput

# What a name may contain besides letters, digits and combining marks of any script. Not the colon,
# which separates FILE:HALF:STRENGTH, and none of < > ".
NAME_PUNCTUATION = set("_ .,+()[]@=~!&'#-")
LONGEST_NAME = 120  # bytes in UTF-8 of a name that a user gives
LONGEST_FILE_NAME = 200  # bytes, including a number and a suffix that Studio adds
RESERVED_NAMES = {"con", "prn", "aux", "nul"}
RESERVED_NAMES |= {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}


def check_name(name: str) -> str:
    """The name, if every system permits it for a file. Otherwise raises BadInput."""
    if not is_name(name, longest=LONGEST_NAME):
        raise BadInput(
            f"{name[:LONGEST_NAME]!r} cannot be a name: use letters, digits, spaces and "
            f"- _ . , + ( ), beginning with a letter or a digit, at most {LONGEST_NAME} bytes"
        )
    return name


def clean_name(text: str, *, otherwise: str) -> str:
    """The nearest permitted name; `otherwise` where no character of the text is permitted."""
    name = "".join(c if _is_allowed(c) else " " for c in unicodedata.normalize("NFC", text))
    name = " ".join(name.split()).encode()[:LONGEST_NAME].decode(errors="ignore")
    while name and not (name[0].isalnum() or name[0] == "_"):
        name = name[1:]
    name = name.rstrip(" .")
    return name if is_name(name, longest=LONGEST_NAME) else otherwise


def is_name(name: str, *, longest: int) -> bool:
    """Whether every system permits this name for a file. longest: in bytes of UTF-8."""
    return (
        all(map(_is_allowed, name))
        and name[:1].replace("_", "a").isalnum()
        and name[-1] not in " ."
        and len(name.encode()) <= longest
        and name.partition(".")[0].strip().lower() not in RESERVED_NAMES
        and unicodedata.is_normalized("NFC", name)
    )


def _is_allowed(c: str) -> bool:
    return c.isalnum() or c in NAME_PUNCTUATION or unicodedata.category(c)[0] == "M"


def numbered_names(name: str) -> Iterator[str]:
    """The name, then `name-2`, `name-3` and so on."""
    yield name
    for number in count(2):
        yield f"{name}-{number}"
