"""Read prompts for trainings without pictures: from a file, captions, or a bundled base."""

from functools import cache
from pathlib import Path

from studio.bases.names import BUNDLED_BASES
from studio.dataset.captions import caption_files, read_metadata, tidy
from studio.errors import BadInput
from studio.files import expand_home, read_text

OF_SKETCH = 400  # captions of scenes that the bundled bases know


def check_prompts(source: str | Path | None, base: str) -> None:
    """Raise BadInput where there are no prompts. Arguments as in `read_prompts`."""
    if source is None and base not in BUNDLED_BASES:
        raise BadInput(
            f"prompts are missing: they tell what {base} shall draw; give a file with one prompt "
            "on each line, or a folder with captions"
        )


def read_prompts(source: str | Path | None, base: str) -> tuple[str, ...]:
    """Distinct prompts. source: a file with one prompt on each line, or a folder with captions.

    source may be None for a bundled base, which has captions of its own. base: the base's source or
    name. Raises BadInput where there are no prompts.
    """
    check_prompts(source, base)
    if source is None:
        return _of_sketch()
    path = expand_home(source)
    if not path.exists():
        raise BadInput(f"there is no {path}: give a file with one prompt on each line, or a folder")
    lines = _captions(path) if path.is_dir() else read_text(path).splitlines()
    prompts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not prompts:
        what = "no caption in a file" if path.is_dir() else "no line with a prompt"
        raise BadInput(f"{path} has {what}: write some into it, or give another")
    return prompts


def _captions(folder: Path) -> list[str]:
    """The captions in text files and in metadata, with or without their pictures."""
    beside = [tidy(read_text(file)) for files in caption_files(folder).values() for file in files]
    return [*beside, *(row.text for row in read_metadata(folder).values())]


@cache
def _of_sketch() -> tuple[str, ...]:
    """Captions of random scenes in varied words, such as the bundled bases learned from."""
    import numpy as np

    from studio.sketch.captions import wording
    from studio.sketch.scenes import sample

    rng = np.random.default_rng([21, 0])
    captions = (wording(sample(rng), rng) for _ in range(OF_SKETCH))
    return tuple(dict.fromkeys(captions))
