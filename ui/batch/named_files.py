"""The files that a manifest names, and the restriction to files that it may name."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.errors import BadInput
from studio.requests.validation import in_words


@dataclass(frozen=True)
class NamedFiles:
    """Resolves the file names in a manifest.

    folder: names are relative to it; absolute paths and "~" are allowed too. only: real paths of
    files and folders; a name may lead only to these or into `folder`. None: it may lead anywhere.
    """

    folder: Path
    only: Sequence[Path] | None = None

    def find(self, text: str, *, otherwise: str) -> str:
        """The path of a name, whether or not it exists.

        otherwise: the message of the BadInput for a name outside of `only`: what to do instead.
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
        """Raise BadInput with this message if the manifest may not read text from other files."""
        if self.only is not None:
            raise BadInput(otherwise)
