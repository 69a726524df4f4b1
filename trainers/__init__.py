"""Pictures go in, a small adapter file comes out.

    for progress in trainers.train(trainers.LoRA(rank=16), base, "photos/", trigger="a sks robot"):
        ...

Every kind is trained by the one loop. Importing this package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from trainers._kind import Count, Kind, count, kinds
from trainers._progress import Drawn, Encoded, Finished, Progress, Sampled, Saved, Started, Step
from trainers._recipe import Recipe, recipe_for

if TYPE_CHECKING:
    from trainers._train import base_of, check, resume, train
    from trainers.blora import BLoRA
    from trainers.diffusekrona import DiffuseKronA
    from trainers.lora import LoRA
    from trainers.sara import SaRA

__all__ = [
    "BLoRA",
    "Count",
    "DiffuseKronA",
    "Drawn",
    "Encoded",
    "Finished",
    "Kind",
    "LoRA",
    "Progress",
    "Recipe",
    "SaRA",
    "Sampled",
    "Saved",
    "Started",
    "Step",
    "base_of",
    "check",
    "count",
    "kinds",
    "recipe_for",
    "resume",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'trainers' has no attribute {name!r}")
    if name in ("base_of", "check", "resume", "train"):
        return getattr(import_module("trainers._train"), name)
    return kinds()[name.lower()]
