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
    from compose._profile import profiled
    from compose._render import develop, like, render
    from compose._schedule import Pass, Schedule, schedule

__all__ = [
    "CMLoRA",
    "Call",
    "Composite",
    "Done",
    "Eps",
    "KLoRA",
    "Merge",
    "Method",
    "Mix",
    "Part",
    "Pass",
    "Plan",
    "Schedule",
    "Step",
    "Switch",
    "denoise",
    "develop",
    "like",
    "method_named",
    "methods",
    "profiled",
    "record",
    "render",
    "schedule",
]

# These need PyTorch, which takes seconds to import; a method's options can be read without.
_HOMES = {
    "Done": "compose._denoise",
    "Pass": "compose._schedule",
    "Schedule": "compose._schedule",
    "Step": "compose._denoise",
    "denoise": "compose._denoise",
    "develop": "compose._render",
    "like": "compose._render",
    "profiled": "compose._profile",
    "render": "compose._render",
    "schedule": "compose._schedule",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'compose' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
