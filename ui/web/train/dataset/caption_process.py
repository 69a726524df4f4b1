"""A model's captions, for a process that has PyTorch: the page's server has none."""

from functools import lru_cache
from pathlib import Path

from studio.dataset.captioner import Captioner, open_captioner


def write_caption(model: str, picture: Path) -> str:
    """What the picture shows. The model stays open. Raises BadInput where it can't be used."""
    return _opened(model).caption(picture)


@lru_cache(maxsize=1)
def _opened(model: str) -> Captioner:
    return open_captioner(model)
