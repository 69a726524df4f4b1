"""Pictures go in, a small adapter file comes out.

    for progress in trainers.train(trainers.LoRA(rank=16), base, "photos/", trigger="a sks robot"):
        ...

All kinds are trained by one loop, trainers/engine/loop.py. Importing this package does not import
PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from studio.requests.recipe import Recipe, draft, with_options
from trainers.engine.kind import Count, Kind, count, kinds
from trainers.engine.progress import (
    Drawn,
    Encoded,
    Finished,
    Progress,
    Sampled,
    Saved,
    Started,
    Step,
)
from trainers.engine.resolve import kind_of, recipe_for, recipe_of

if TYPE_CHECKING:
    from trainers.blora import BLoRA
    from trainers.diffusekrona import DiffuseKronA
    from trainers.engine.estimate.estimate import Estimate, estimate, estimate_request
    from trainers.engine.train import base_of, check, checkpoints, resume, run_request, train
    from trainers.lora import LoRA
    from trainers.oft import OFT
    from trainers.sara import SaRA
    from trainers.tlora import TLoRA

__all__ = [
    "OFT",
    "BLoRA",
    "Count",
    "DiffuseKronA",
    "Drawn",
    "Encoded",
    "Estimate",
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
    "TLoRA",
    "base_of",
    "check",
    "checkpoints",
    "count",
    "draft",
    "estimate",
    "estimate_request",
    "kind_of",
    "kinds",
    "recipe_for",
    "recipe_of",
    "resume",
    "run_request",
    "train",
    "with_options",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'trainers' has no attribute {name!r}")
    if name in ("base_of", "check", "checkpoints", "resume", "run_request", "train"):
        return getattr(import_module("trainers.engine.train"), name)
    if name in ("Estimate", "estimate", "estimate_request"):
        return getattr(import_module("trainers.engine.estimate.estimate"), name)
    return kinds()[name.lower()]
