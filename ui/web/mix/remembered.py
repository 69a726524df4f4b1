"""What a page remembers of Mix beside its widgets, when it is reloaded."""

import json
from dataclasses import asdict, dataclass

from ui.web.mix.mix_adapters import MixAdapter


@dataclass(frozen=True)
class Remembered:
    """job, own: numbers of the job shown and of the last one queued. picture: its id.

    mix: the adapters, which may be gone from the library by now.
    """

    job: int | None = None
    own: int | None = None
    picture: str | None = None
    mix: tuple[MixAdapter, ...] = ()

    @classmethod
    def read(cls, text: object) -> "Remembered":
        """From the text that `write` made; empty where it is none."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_json(str(text))
        except ValidationError:
            return cls()

    def write(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))
