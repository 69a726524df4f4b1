"""Studio: teach a diffusion model a subject or a style, and mix what it has learned."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.adapters.load import load_adapter
    from studio.bases.base import Base
    from studio.bases.load import load_base
    from studio.requests.shot import Shot

__all__ = ["Adapter", "BadInput", "Base", "Shot", "load_adapter", "load_base"]

# Importing bitsandbytes logs a warning about missing kernels that nothing here uses. diffusers
# imports peft, and peft imports bitsandbytes where it is installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# The module that defines each public name. It is imported at the first use of the name: PyTorch
# takes seconds to import, and `studio --help` must not wait for it.
_MODULES = {
    "Adapter": "studio.adapters.adapter",
    "load_adapter": "studio.adapters.load",
    "Base": "studio.bases.base",
    "load_base": "studio.bases.load",
    "Shot": "studio.requests.shot",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'studio' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """What a notebook suggests."""
    return __all__
