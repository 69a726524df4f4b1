"""Train adapters: pictures go in, a small adapter file comes out.

    for progress in trainers.train(trainers.LoRA(rank=16), base, "photos/", trigger="a sks robot"):
        ...

All kinds are trained by one loop, trainers/engine/loop.py. Importing this package does not import
PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from studio.requests.recipe import Recipe, draft, with_options
from trainers.engine.kind import (
    Count,
    Kind,
    all_kinds,
    count,
    distillation_kinds,
    kinds,
    options_of,
    reward_kinds,
)
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
from trainers.engine.resolve import check_learned, drawn_with, kind_of, recipe_for, recipe_of

if TYPE_CHECKING:
    from trainers.blora import BLoRA
    from trainers.diffusekrona import DiffuseKronA
    from trainers.distillations.guidance import Guidance
    from trainers.distillations.lcm import LCM
    from trainers.engine.estimate.estimate import Estimate, estimate, estimate_request
    from trainers.engine.train import (
        align,
        base_of,
        check,
        checkpoints,
        distill,
        resume,
        run_request,
        train,
    )
    from trainers.lora import LoRA
    from trainers.oft import OFT
    from trainers.rewards.brightness import Brightness
    from trainers.rewards.clip import Clip
    from trainers.rewards.contrast import Contrast
    from trainers.rewards.filesize import FileSize
    from trainers.rewards.judge import Judge
    from trainers.rewards.palette import Palette
    from trainers.rewards.tile import Tile
    from trainers.sara import SaRA
    from trainers.tlora import TLoRA

__all__ = [
    "LCM",
    "OFT",
    "BLoRA",
    "Brightness",
    "Clip",
    "Contrast",
    "Count",
    "DiffuseKronA",
    "Drawn",
    "Encoded",
    "Estimate",
    "FileSize",
    "Finished",
    "Guidance",
    "Judge",
    "Kind",
    "LoRA",
    "Palette",
    "Progress",
    "Recipe",
    "SaRA",
    "Sampled",
    "Saved",
    "Started",
    "Step",
    "TLoRA",
    "Tile",
    "align",
    "all_kinds",
    "base_of",
    "check",
    "check_learned",
    "checkpoints",
    "count",
    "distill",
    "distillation_kinds",
    "draft",
    "drawn_with",
    "estimate",
    "estimate_request",
    "kind_of",
    "kinds",
    "options_of",
    "recipe_for",
    "recipe_of",
    "resume",
    "reward_kinds",
    "run_request",
    "train",
    "with_options",
]

# Names of trainers/engine/train.py, which imports PyTorch.
TRAINING = ["align", "base_of", "check", "checkpoints", "distill", "resume", "run_request", "train"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'trainers' has no attribute {name!r}")
    if name in TRAINING:
        return getattr(import_module("trainers.engine.train"), name)
    if name in ("Estimate", "estimate", "estimate_request"):
        return getattr(import_module("trainers.engine.estimate.estimate"), name)
    return all_kinds()[name.lower()]


def __dir__() -> list[str]:
    """What a notebook suggests."""
    return __all__
