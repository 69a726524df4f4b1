"""What a training leaves out of its folders, and the sentences that say so."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Kinds that are no pictures of the folder itself.
CAPTIONS, SUB_FOLDERS = "captions", "in sub-folders"
NAMED = 3  # reasons of one kind, and files of one reason; the others are counted


@dataclass(frozen=True)
class Skipped:
    """A file or sub-folder that is left out.

    reason: why, as the end of a sentence that starts with its name.  kind: what it is counted as.
    count: how many pictures it stands for.
    """

    path: Path
    reason: str
    kind: str = "damaged"
    count: int = 1


def count_skipped(skipped: Sequence[Skipped]) -> str:
    """How many of which kind, such as "2 HEIC, 1 damaged"; empty where there are none."""
    return ", ".join(_counted(kind, group) for kind, group in _by_kind(skipped))


def describe_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each kind: how many there are, which, and why."""
    return [
        f"Left out {_counted(kind, group)}: {_reasons(group)}." for kind, group in _by_kind(skipped)
    ]


def _by_kind(skipped: Sequence[Skipped]) -> Iterator[tuple[str, list[Skipped]]]:
    for kind in dict.fromkeys(one.kind for one in skipped):
        yield kind, [one for one in skipped if one.kind == kind]


def _counted(kind: str, group: Sequence[Skipped]) -> str:
    count = sum(one.count for one in group)
    return f"{count} {'caption' if kind == CAPTIONS and count == 1 else kind}"


def _reasons(group: Sequence[Skipped]) -> str:
    """What is wrong with files of one kind, each reason once with the first files that have it."""
    files: dict[str, list[str]] = {}
    for one in group:
        files.setdefault(one.reason, []).append(one.path.name)
    said, named = [], 0
    for reason, (first, *others) in list(files.items())[:NAMED]:
        others = others[: NAMED - 1]
        said.append(f"{first} {reason}" + (f" (so too {', '.join(others)})" if others else ""))
        named += 1 + len(others)
    return "; ".join([*said, f"and {len(group) - named} more"] if named < len(group) else said)
