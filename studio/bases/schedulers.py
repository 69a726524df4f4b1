"""The schedulers that a base can be run with, on its own noise schedule."""

from typing import TypeVar

import diffusers
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from studio.bases.architecture import Config
from studio.errors import BadInput

SCHEDULERS = ("euler", "ddim", "dpmpp_2m", "unipc")
PREDICTION_TYPES = ("epsilon", "v_prediction")
Scheduler = (
    EulerDiscreteScheduler
    | DDIMScheduler
    | DPMSolverMultistepScheduler
    | UniPCMultistepScheduler
    | PNDMScheduler
)
Configured = TypeVar("Configured", bound=ConfigMixin)


def new_scheduler(config: Config, name: str | None) -> Scheduler:
    """A fresh scheduler. name: one of SCHEDULERS, or None for the one that `config` names.

    config: a base's scheduler_config.json. Raises BadInput for another name.
    """
    match name:
        case None:
            return from_config(getattr(diffusers, str(config["_class_name"])), config)
        case "euler":
            return from_config(EulerDiscreteScheduler, config)
        case "ddim":
            # DDIM's defaults are for pixels. Latents lie outside -1 .. 1.
            defaults = {"set_alpha_to_one": False}
            return from_config(DDIMScheduler, defaults | config | {"clip_sample": False})
        case "dpmpp_2m":
            second_order = {"algorithm_type": "dpmsolver++", "solver_order": 2}
            return from_config(DPMSolverMultistepScheduler, config | second_order)
        case "unipc":
            return from_config(UniPCMultistepScheduler, config | {"solver_order": 2})
    raise BadInput(f"There is no scheduler {name!r}: choose {', '.join(SCHEDULERS)}.")


def check_scheduler_config(config: Config, where: str) -> None:
    """Raise BadInput unless the base has a beta schedule and predicts noise or velocity."""
    kind = str(config.get("_class_name"))
    if kind not in KarrasDiffusionSchedulers.__members__:
        raise BadInput(f"{where} has a scheduler {kind}, which is not of the SD family.")
    if config.get("prediction_type", "epsilon") not in PREDICTION_TYPES:
        raise BadInput(
            f"{where} predicts {config['prediction_type']!r}: "
            f"bases predict {' or '.join(PREDICTION_TYPES)}."
        )


def from_config(kind: type[Configured], config: Config) -> Configured:
    """An object of one of diffusers' classes; entries that it doesn't know are ignored."""
    built = kind.from_config(config)
    assert isinstance(built, kind)  # diffusers' annotation allows for a tuple too
    return built
