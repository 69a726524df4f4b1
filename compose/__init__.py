"""Mixing adapters: a method says how, the engine denoises, a picture comes out."""

from importlib import import_module
from typing import TYPE_CHECKING

from compose.cmlora import CMLoRA
from compose.composite import Composite
from compose.engine.method import (
    Call,
    Eps,
    Halves,
    Method,
    Mix,
    Part,
    Plan,
    method_named,
    method_of,
    methods,
    record,
)
from compose.klora import KLoRA
from compose.merge import Merge
from compose.regions import Regions
from compose.switch import Switch

if TYPE_CHECKING:
    from compose.engine.batch.adapter_cache import AdapterCache
    from compose.engine.batch.estimate import BatchEstimate, estimate_batch
    from compose.engine.batch.groups import Group, group_shots
    from compose.engine.batch.memory_limit import batch_sizes
    from compose.engine.batch.rendering import Failed, GroupStep, Made, render_groups, render_many
    from compose.engine.denoise import Done, Step, denoise
    from compose.engine.detail_profile import profiled
    from compose.engine.expected.drawing_time import time_note
    from compose.engine.header_schedule import NeedsWeights, outline
    from compose.engine.render import decode, render
    from compose.engine.schedule import Pass, Schedule, schedule
    from compose.engine.shot_reader import like, shot_from_dict

__all__ = [
    "AdapterCache",
    "BatchEstimate",
    "CMLoRA",
    "Call",
    "Composite",
    "Done",
    "Eps",
    "Failed",
    "Group",
    "GroupStep",
    "Halves",
    "KLoRA",
    "Made",
    "Merge",
    "Method",
    "Mix",
    "NeedsWeights",
    "Part",
    "Pass",
    "Plan",
    "Regions",
    "Schedule",
    "Step",
    "Switch",
    "batch_sizes",
    "decode",
    "denoise",
    "estimate_batch",
    "group_shots",
    "like",
    "method_named",
    "method_of",
    "methods",
    "outline",
    "profiled",
    "record",
    "render",
    "render_groups",
    "render_many",
    "schedule",
    "shot_from_dict",
    "time_note",
]

# These need PyTorch, which takes seconds to import; a method's options can be read without.
_MODULES = {
    "compose.engine.batch.adapter_cache": "AdapterCache",
    "compose.engine.batch.estimate": "BatchEstimate estimate_batch",
    "compose.engine.batch.groups": "Group group_shots",
    "compose.engine.batch.memory_limit": "batch_sizes",
    "compose.engine.batch.rendering": "Failed GroupStep Made render_groups render_many",
    "compose.engine.denoise": "Done Step denoise",
    "compose.engine.detail_profile": "profiled",
    "compose.engine.expected.drawing_time": "time_note",
    "compose.engine.header_schedule": "NeedsWeights outline",
    "compose.engine.render": "decode render",
    "compose.engine.schedule": "Pass Schedule schedule",
    "compose.engine.shot_reader": "like shot_from_dict",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'compose' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What a notebook suggests."""
    return __all__
