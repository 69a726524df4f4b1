"""Write captions with a model, in a process that has PyTorch: the page's server has none."""

from functools import lru_cache
from pathlib import Path

from studio.dataset.captioner import Captioner, open_captioner


def write_caption(model: str, picture: Path) -> str:
    """A caption for the picture. The model stays open. Raises BadInput where it can't be used."""
    return _opened(model).caption(picture)


@lru_cache(maxsize=1)
def _opened(model: str) -> Captioner:
    return open_captioner(model)
