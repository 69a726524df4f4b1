"""What a training leaves out of its folders, and sentences about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Kinds that are not pictures in the folder itself.
CAPTIONS, SUB_FOLDERS = "captions", "in sub-folders"
NAMED = 3  # how many reasons of a kind, and files with a reason, are named; the rest is counted


@dataclass(frozen=True)
class Skipped:
    """A file or sub-folder that is left out.

    reason: why, as the end of a sentence that starts with its name.  kind: under which it is
    counted, such as "damaged" or "HEIC".  count: how many pictures it stands for.
    """

    path: Path
    reason: str
    kind: str = "damaged"
    count: int = 1


def count_skipped(skipped: Sequence[Skipped]) -> str:
    """How many there are of each kind, such as "2 HEIC, 1 damaged"; "" where there are none."""
    return ", ".join(_counted(kind, group) for kind, group in _by_kind(skipped))


def describe_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each kind: how many there are, which, and why."""
    return [
        f"Left out {_counted(kind, group)}: {_reasons(group)}." for kind, group in _by_kind(skipped)
    ]


def _by_kind(skipped: Sequence[Skipped]) -> Iterator[tuple[str, list[Skipped]]]:
    for kind in dict.fromkeys(file.kind for file in skipped):
        yield kind, [file for file in skipped if file.kind == kind]


def _counted(kind: str, group: Sequence[Skipped]) -> str:
    count = sum(file.count for file in group)
    return f"{count} {'caption' if kind == CAPTIONS and count == 1 else kind}"


def _reasons(group: Sequence[Skipped]) -> str:
    """The reasons for leaving out files of one kind, each with the first files that have it."""
    files: dict[str, list[str]] = {}
    for skipped in group:
        files.setdefault(skipped.reason, []).append(skipped.path.name)
    reasons, named = [], 0
    for reason, (first, *others) in list(files.items())[:NAMED]:
        others = others[: NAMED - 1]
        reasons.append(f"{first} {reason}" + (f" (so too {', '.join(others)})" if others else ""))
        named += 1 + len(others)
    more = [f"and {len(group) - named} more"] if named < len(group) else []
    return "; ".join([*reasons, *more])
