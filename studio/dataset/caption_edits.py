"""Change many captions at once, and write them beside their pictures.

edit = CaptionEdit(find="red", replace="crimson", trigger="sks robot")
write_captions({picture: edit.apply(caption) for picture, caption in captions.items()})
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.dataset.captions import caption_files, tidy
from studio.dataset.listing import list_pictures
from studio.errors import BadInput
from studio.files import write_file
from studio.requests.trigger_words import says


@dataclass(frozen=True)
class CaptionEdit:
    """A change of captions: find and replace, then add a prefix, a suffix and a trigger.

    find: plain text, case-sensitive. trigger: put before every caption that does not contain it.
    A prefix or suffix that a caption has already is not added again.
    """

    find: str = ""
    replace: str = ""
    prefix: str = ""
    suffix: str = ""
    trigger: str = ""

    def apply(self, caption: str) -> str:
        """The caption after this edit, in one line with single blanks."""
        text = tidy(caption.replace(self.find, self.replace) if self.find else caption)
        prefix, suffix, trigger = tidy(self.prefix), tidy(self.suffix), tidy(self.trigger)
        if prefix and not text.startswith(prefix):
            text = tidy(f"{prefix} {text}")
        if suffix and not text.endswith(suffix):
            text = tidy(f"{text}{suffix}" if suffix[0] in ",.;:!?" else f"{text} {suffix}")
        if trigger and not says(text, trigger):
            text = f"{trigger}, {text}" if text else trigger
        return text


def write_captions(captions: Mapping[Path, str]) -> None:
    """Write each picture's caption into the file that it is read from, or else into a .txt file.

    An empty caption removes the picture's caption files. Each file is written atomically. Raises
    BadInput, before any file is written, where two pictures share a caption file.
    """
    by_folder = {folder: caption_files(folder) for folder in {path.parent for path in captions}}
    for folder in by_folder:
        _check_own_files(list_pictures(folder)[0], captions)
    for picture, caption in captions.items():
        files = by_folder[picture.parent]
        own = [*files.get(picture.stem, ()), *files.get(picture.name, ())]
        if text := tidy(caption):
            write_file(own[0] if own else picture.with_suffix(".txt"), text.encode())
            continue
        for file in own:
            file.unlink(missing_ok=True)


def _check_own_files(pictures: list[Path], captions: Mapping[Path, str]) -> None:
    """Raise BadInput where a picture to be captioned has another one's name, except the suffix."""
    for picture in captions:
        own = picture.with_suffix("")
        twins = [p.name for p in pictures if p.with_suffix("") == own and p != picture]
        if twins:
            raise BadInput(
                f"{picture.name} and {twins[0]} would share the caption {picture.stem}.txt: rename "
                "one of them"
            )
