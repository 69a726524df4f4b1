"""Mixing adapters: a method says how, the engine denoises, a picture comes out."""

from importlib import import_module
from typing import TYPE_CHECKING

from compose._method import Call, Eps, Method, Mix, Part, Plan, method_named, methods, record
from compose.cmlora import CMLoRA
from compose.composite import Composite
from compose.klora import KLoRA
from compose.merge import Merge
from compose.switch import Switch

if TYPE_CHECKING:
    from compose._denoise import Done, Step, denoise
    from compose._groups import Group, Spread, group_shots
    from compose._many import (
        Advanced,
        Failed,
        Made,
        Narrowed,
        render_groups,
        render_many,
    )
    from compose._measure import Expected, expect, spread_for
    from compose._outline import NeedsWeights, outline
    from compose._profile import profiled
    from compose._render import develop, like, render
    from compose._schedule import Pass, Schedule, schedule
    from compose._shelf import Shelf

__all__ = [
    "Advanced",
    "CMLoRA",
    "Call",
    "Composite",
    "Done",
    "Eps",
    "Expected",
    "Failed",
    "Group",
    "KLoRA",
    "Made",
    "Merge",
    "Method",
    "Mix",
    "Narrowed",
    "NeedsWeights",
    "Part",
    "Pass",
    "Plan",
    "Schedule",
    "Shelf",
    "Spread",
    "Step",
    "Switch",
    "denoise",
    "develop",
    "expect",
    "group_shots",
    "like",
    "method_named",
    "methods",
    "outline",
    "profiled",
    "record",
    "render",
    "render_groups",
    "render_many",
    "schedule",
    "spread_for",
]

# These need PyTorch, which takes seconds to import; a method's options can be read without.
_HOMES = {
    "group_shots": "compose._groups",
    "Spread": "compose._groups",
    "Group": "compose._groups",
    "Shelf": "compose._shelf",
    "spread_for": "compose._measure",
    "expect": "compose._measure",
    "Expected": "compose._measure",
    "render_many": "compose._many",
    "render_groups": "compose._many",
    "Narrowed": "compose._many",
    "Made": "compose._many",
    "Failed": "compose._many",
    "Advanced": "compose._many",
    "Done": "compose._denoise",
    "Pass": "compose._schedule",
    "Schedule": "compose._schedule",
    "Step": "compose._denoise",
    "denoise": "compose._denoise",
    "develop": "compose._render",
    "outline": "compose._outline",
    "NeedsWeights": "compose._outline",
    "like": "compose._render",
    "profiled": "compose._profile",
    "render": "compose._render",
    "schedule": "compose._schedule",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'compose' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
