"""The files that a manifest names, and which it is allowed to name."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.errors import BadInput
from studio.requests.validation import in_words


@dataclass(frozen=True)
class NamedFiles:
    """Where a manifest's names of files lead.

    folder: where they are looked for; home folders and full paths are taken too.
    only: real paths of files and folders. A name may lead to these, and to what is in `folder`;
    None: a name may lead anywhere.
    """

    folder: Path
    only: Sequence[Path] | None = None

    def find(self, text: str, *, otherwise: str) -> str:
        """The path of a name, whether or not something is there.

        otherwise: what to do instead; the message of the BadInput for a name outside `only`.
        """
        if "\0" in text:
            raise BadInput(f"{in_words(text)} has a NUL in it, which no file's name has")
        path = os.path.join(self.folder, os.path.expanduser(text))
        if self.only is not None:
            real = Path(os.path.realpath(path))
            if not any(map(real.is_relative_to, (self.folder.resolve(), *self.only))):
                raise BadInput(otherwise)
        return path

    def check_text_files(self, otherwise: str) -> None:
        """Raise BadInput with these words where no text may be read out of other files."""
        if self.only is not None:
            raise BadInput(otherwise)
