"""Make diffusers' schedulers for a base, with the base's own noise schedule."""

from collections.abc import Mapping
from inspect import signature
from typing import TypeVar

import diffusers
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin

from studio.bases.architecture import Config
from studio.bases.samplers import SCHEDULERS
from studio.errors import BadInput

PREDICTION_TYPES = ("epsilon", "v_prediction")
Scheduler = (
    EulerDiscreteScheduler
    | EulerAncestralDiscreteScheduler
    | HeunDiscreteScheduler
    | DPMSolverMultistepScheduler
    | DPMSolverSDEScheduler
    | UniPCMultistepScheduler
    | DDIMScheduler
    | DDPMScheduler
    | LCMScheduler
    | TCDScheduler
    | PNDMScheduler
)
KINDS: Mapping[str, tuple[type[Scheduler], Config]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpmpp_2m": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "solver_order": 2},
    ),
    "dpmpp_2m_sde": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
    ),
    "dpmpp_sde": (DPMSolverSDEScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
    "ddim": (DDIMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "lcm": (LCMScheduler, {}),
    "tcd": (TCDScheduler, {}),
}
# Schedulers that a base may have as its own, though a shot cannot name them. LMS needs SciPy.
OWN = KarrasDiffusionSchedulers.__members__.keys() - {"LMSDiscreteScheduler", "EDMEulerScheduler"}
# Turns off the spacing of noise levels that a base's configuration may have.
BY_TIMESTEP: Config = dict.fromkeys(
    ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False
)
Configured = TypeVar("Configured", bound=ConfigMixin)


def new_scheduler(config: Config, name: str | None, spacing: str | None = None) -> Scheduler:
    """A new scheduler. name: one of SCHEDULERS; None is the one that `config` names.

    config: a base's scheduler_config.json. spacing: one of SPACINGS; None is the configuration's.
    Raises BadInput for another name, and for a spacing that the scheduler doesn't have.
    """
    if name is None:
        kind, settings = _own_kind(config), config
    elif name in KINDS:
        kind, own = KINDS[name]
        # Defaults of DDIM and others clip for pixels, but latents lie outside of -1 .. 1.
        settings = {"set_alpha_to_one": False} | config | {"clip_sample": False} | own
        _check_pure_noise(name, kind, config)
    else:
        raise BadInput(f"There is no scheduler {name!r}: choose {', '.join(SCHEDULERS)}.")
    if spacing is None:
        return from_config(kind, settings)
    if not can_space(kind, spacing):
        raise BadInput(f"spacing: {kind.__name__} can't space its timesteps {spacing!r}.")
    return from_config(kind, settings | _spacing_settings(spacing, config))


def can_space(kind: type[Scheduler], spacing: str) -> bool:
    """Whether diffusers' class has this spacing; see SPACINGS."""
    known = signature(kind.__init__).parameters
    if spacing in ("karras", "exponential"):
        return f"use_{spacing}_sigmas" in known
    distilled = "original_inference_steps" in known  # LCM and TCD, which have their own spacing
    return "timestep_spacing" in known and not (spacing == "leading" and distilled)


def check_scheduler_config(config: Config, where: str) -> None:
    """Raise BadInput unless the base has a beta schedule and predicts noise or velocity."""
    kind = _class_named(config)
    if "beta_schedule" not in (signature(kind.__init__).parameters if kind else config):
        named = config.get("_class_name")
        raise BadInput(f"{where} has a scheduler {named}, which is not of the SD family.")
    if config.get("prediction_type", "epsilon") not in PREDICTION_TYPES:
        raise BadInput(
            f"{where} predicts {config['prediction_type']!r}: "
            f"bases predict {' or '.join(PREDICTION_TYPES)}."
        )


def _own_kind(config: Config) -> type[Scheduler]:
    """The scheduler that a base's configuration names, or Euler where Studio lacks that one."""
    kind, name = _class_named(config), config.get("_class_name")
    known = any(kind is own for own, _ in KINDS.values()) or name in OWN
    return kind if kind and known else EulerDiscreteScheduler  # pyright: ignore[reportReturnType]


def _class_named(config: Config) -> type[SchedulerMixin] | None:
    """diffusers' class of that name; None where it has none, or needs another library for it."""
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    return kind if isinstance(kind, type) and issubclass(kind, SchedulerMixin) else None


def from_config(kind: type[Configured], config: Config) -> Configured:
    """An object of one of diffusers' classes; entries that it doesn't know are left out."""
    known = signature(kind.__init__).parameters  # diffusers warns of other entries
    built = kind.from_config({k: v for k, v in config.items() if k in known or k.startswith("_")})
    assert isinstance(built, kind)  # diffusers' annotation allows for a tuple too
    return built


def _spacing_settings(spacing: str, config: Config) -> Config:
    """The entries of a diffusers configuration that give this spacing."""
    if spacing in ("karras", "exponential"):
        # From the noise of the last training step to that of the first, as in k-diffusion.
        return BY_TIMESTEP | {"timestep_spacing": "linspace", f"use_{spacing}_sigmas": True}
    if spacing == "leading":
        return BY_TIMESTEP | {"timestep_spacing": "leading"}
    # LCM and TCD choose among the steps of a distillation. Let them choose among all timesteps.
    count = config.get("num_train_timesteps", 1000)
    return BY_TIMESTEP | {"timestep_spacing": "trailing", "original_inference_steps": count}


def _check_pure_noise(name: str, kind: type[Scheduler], config: Config) -> None:
    """Raise BadInput where a base begins at pure noise and the scheduler can't."""
    zero = "rescale_betas_zero_snr"
    if config.get(zero) and zero not in signature(kind.__init__).parameters:
        able = [n for n, (k, _) in KINDS.items() if zero in signature(k.__init__).parameters]
        raise BadInput(
            f"This base begins at pure noise, where {name} can't: choose {', '.join(able)}."
        )
