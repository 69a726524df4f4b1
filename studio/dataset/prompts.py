"""Prompts for trainings without pictures: of a file, of a folder's captions, or sketch's own."""

from functools import cache
from pathlib import Path

from studio.bases.names import BUNDLED_BASES
from studio.dataset.captions import caption_files, read_metadata, tidy
from studio.errors import BadInput
from studio.files import expand_home, read_text

OF_SKETCH = 400  # captions, of scenes that the bundled bases know


def check_prompts(source: str | Path | None, base: str) -> None:
    """Raise BadInput where there are no prompts for a base. source, base: as `read_prompts`."""
    if source is None and base not in BUNDLED_BASES:
        raise BadInput(
            f"prompts are missing: {base} learns from them what it is to draw; give a file with "
            "one a line, or a folder with captions"
        )


def read_prompts(source: str | Path | None, base: str) -> tuple[str, ...]:
    """Prompts, each once. source: a file with one a line, or a folder with captions.

    None is the captions of a bundled base. base: its source or name. Raises BadInput where there
    are none.
    """
    check_prompts(source, base)
    if source is None:
        return _of_sketch()
    path = expand_home(source)
    if not path.exists():
        raise BadInput(f"there is no {path}: give a file with a prompt a line, or a folder")
    lines = _captions(path) if path.is_dir() else read_text(path).splitlines()
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        what = "no caption in a file" if path.is_dir() else "no line with a prompt"
        raise BadInput(f"{path} has {what}: give what is to be drawn")
    return found


def _captions(folder: Path) -> list[str]:
    """Those of text files and of metadata, whether or not their pictures are there."""
    beside = [tidy(read_text(file)) for files in caption_files(folder).values() for file in files]
    return [*beside, *(row.text for row in read_metadata(folder).values())]


@cache
def _of_sketch() -> tuple[str, ...]:
    """Captions in changing words, as the bundled bases learned them."""
    import numpy as np

    from studio.sketch.captions import wording
    from studio.sketch.scenes import sample

    rng = np.random.default_rng([21, 0])
    found = (wording(sample(rng), rng) for _ in range(OF_SKETCH))
    return tuple(dict.fromkeys(found))
