"""Summaries of schedules for the web page: how much of each UNet block each adapter changes.

Methods that depend on the weights, such as K-LoRA, need the weights for their schedule, and only a
worker loads them. The worker saves the summary in the workspace's cache, under a hash of everything
that it depends on.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from compose import Pass, Schedule
from studio.adapters.blora_blocks import split_half
from studio.files import file_version, write_file
from studio.requests.shot import Shot, method_name, method_options
from studio.workspace import Workspace


@dataclass(frozen=True)
class PassSummary:
    """One pass. shares: for each block, the share of its layers that each adapter changes."""

    shallow: bool
    weight: float
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ScheduleSummary:
    """A schedule by blocks of the UNet.

    adapters, blocks: their names. cost: evaluations of the UNet. plain_cost: evaluations of a
    picture without adapters. steps: the passes of each step.
    """

    adapters: tuple[str, ...]
    blocks: tuple[str, ...]
    cost: float
    plain_cost: int
    steps: tuple[tuple[PassSummary, ...], ...]


def summarize(schedule: Schedule) -> ScheduleSummary:
    """The summary of a schedule."""
    sizes = Counter(_block(layer) for layer in schedule.layers)  # in the order of the layers
    known: dict[object, tuple[tuple[float, ...], ...]] = {}

    def summary(one: Pass) -> PassSummary:
        key = tuple((at, tuple(layers)) for at, layers in one.layers.items())
        if key not in known:
            known[key] = _shares(one, sizes, len(schedule.adapters))
        return PassSummary(one.shallow, one.weight, known[key])

    steps = tuple(tuple(map(summary, step)) for step in schedule.steps)
    costs = schedule.cost, schedule.plain_cost
    return ScheduleSummary(schedule.adapters, tuple(sizes), *costs, steps)


def save_summary(space: Workspace, shot: Shot, summary: ScheduleSummary) -> None:
    """Save a summary for the web page. shot: with its adapters as files."""
    saved = TypeAdapter(ScheduleSummary).dump_json(summary)
    write_file(_place(space, shot), saved, durable=False)


def load_summary(space: Workspace, shot: Shot) -> ScheduleSummary | None:
    """The summary saved for a shot with the same mix and steps; None if there is none."""
    try:
        saved = _place(space, shot).read_bytes()
    except FileNotFoundError:
        return None
    return TypeAdapter(ScheduleSummary).validate_json(saved)


def _shares(one: Pass, sizes: Counter[str], adapters: int) -> tuple[tuple[float, ...], ...]:
    counts = [Counter(map(_block, one.layers.get(at, {}))) for at in range(adapters)]
    return tuple(
        tuple(round(count[block] / size, 3) for count in counts) for block, size in sizes.items()
    )


def _block(layer: str) -> str:
    """Such as "down 1" for a layer of unet.down_blocks.1."""
    _, part, number, *_ = [*layer.split("."), ""]
    name = part.removesuffix("_blocks").removesuffix("_block")
    return f"{name} {number}" if part.endswith("_blocks") else name


def _place(space: Workspace, shot: Shot) -> Path:
    adapters = [
        [str(file), file_version(Path(split_half(str(file))[0])), strength]
        for file, strength in shot.adapters
    ]
    steps = [shot.passes, shot.evaluations()]
    options = method_options(shot.method)
    mixing = [method_name(shot.method), options, *shot.regions]
    if options.get("weigh") == "trigger":  # turns and weights then depend on the prompt
        mixing += [shot.prompt, shot.syntax, shot.clip_skip]
    key = json.dumps([adapters, steps, *mixing])
    return space.cache / "schedules" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
