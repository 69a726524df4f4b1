"""What a page remembers of Mix beside its widgets, when it is reloaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ui.web.mix.mix_adapters import MOST, WHOLE, MixAdapter


@dataclass(frozen=True)
class Remembered:
    """job, own: numbers of the job shown and of the last one queued; 0 for none. picture: its id.

    mix: the adapters, which may be gone from the library by now.
    """

    job: int = 0
    own: int = 0
    picture: str = ""
    mix: tuple[MixAdapter, ...] = ()

    @classmethod
    def read(cls, text: object) -> "Remembered":
        """From the text that `Opening.remember` wrote, as far as it is one."""
        try:
            found = json.loads(str(text))
            return cls(
                job=int(found.get("job") or 0),
                own=int(found.get("own") or 0),
                picture=str(found.get("picture") or ""),
                mix=tuple(_adapter(one) for one in list(found["mix"])[:MOST]),
            )
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
            return cls()


def _adapter(entry: Mapping[str, Any]) -> MixAdapter:
    inserted = entry["inserted"]
    pair = (str(inserted[0]), str(inserted[1])) if inserted else None
    return MixAdapter(
        str(entry["name"]),
        float(entry["strength"]),
        entry["half"] or WHOLE,
        pair,
        on=bool(entry.get("on", True)),
        locked=bool(entry.get("locked", False)),
    )
