"""What a page keeps of Mix, beside the values of its widgets, when it is reloaded."""

import json
from dataclasses import asdict, dataclass

from ui.web.mix.mix_adapters import MixAdapter


@dataclass(frozen=True)
class Remembered:
    """The state of the tab Mix in a page.

    job, own: numbers of the job shown, and of the last job that the page queued. picture: the id
    of the picture shown. mix: the adapters, which may be gone from the library by now.
    """

    job: int | None = None
    own: int | None = None
    picture: str | None = None
    mix: tuple[MixAdapter, ...] = ()

    @classmethod
    def read(cls, text: object) -> "Remembered":
        """The inverse of `write`; an empty state for any other text."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_json(str(text))
        except ValidationError:
            return cls()

    def write(self) -> str:
        """The state as JSON."""
        return json.dumps(asdict(self))
