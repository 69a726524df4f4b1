"""A schedule in small, for a page: blocks of the UNet x passes, and how much of a block is whose.

Methods that look at weights, such as K-LoRA, tell their schedule only where the weights are, in a
worker; it leaves the roll in the workspace's cache, by what it depends on.
"""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from compose import Pass, Schedule
from studio.adapters.blora_blocks import file_and_half
from studio.files import write_whole
from studio.requests.shot import Shot, method_name, method_options
from studio.workspace import Workspace

__all__ = ["Bar", "Roll", "keep_roll", "kept_roll", "roll_of"]


@dataclass(frozen=True)
class Bar:
    """One pass. worn: for each block, the share of its layers that each adapter changes."""

    shallow: bool
    weight: float
    worn: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Roll:
    """adapters, blocks: names, in their order. cost: evaluations of the UNet. steps: of passes."""

    adapters: tuple[str, ...]
    blocks: tuple[str, ...]
    cost: float
    steps: tuple[tuple[Bar, ...], ...]


def roll_of(schedule: Schedule) -> Roll:
    """The roll of a schedule."""
    sizes = Counter(_block(layer) for layer in schedule.layers)  # in the order of the layers
    seen: dict[object, tuple[tuple[float, ...], ...]] = {}

    def bar(one: Pass) -> Bar:
        key = tuple((at, tuple(layers)) for at, layers in one.layers.items())
        if key not in seen:
            seen[key] = _worn(one, sizes, len(schedule.adapters))
        return Bar(one.shallow, one.weight, seen[key])

    steps = tuple(tuple(map(bar, step)) for step in schedule.steps)
    return Roll(schedule.adapters, tuple(sizes), schedule.cost, steps)


def keep_roll(space: Workspace, shot: Shot, roll: Roll) -> None:
    """Leave a roll for pages. shot: with its adapters as files."""
    write_whole(_place(space, shot), json.dumps(asdict(roll)).encode(), lasting=False)


def kept_roll(space: Workspace, shot: Shot) -> Roll | None:
    """The roll that was left for a shot that mixes the same in as many steps; None if none was."""
    try:
        told = json.loads(_place(space, shot).read_bytes())
    except FileNotFoundError:
        return None
    steps = tuple(
        tuple(Bar(one["shallow"], one["weight"], tuple(map(tuple, one["worn"]))) for one in step)
        for step in told["steps"]
    )
    return Roll(tuple(told["adapters"]), tuple(told["blocks"]), told["cost"], steps)


def _worn(one: Pass, sizes: Counter[str], adapters: int) -> tuple[tuple[float, ...], ...]:
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
    start = [int(shot.steps * shot.denoise)] if shot.init_image is not None else [shot.steps]
    told = [[*_state(str(file)), strength] for file, strength in shot.adapters]
    key = json.dumps([told, start, method_name(shot.method), method_options(shot.method)])
    return space.cache / "rolls" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _state(text: str) -> list[object]:
    file = Path(file_and_half(text)[0])
    state = file.stat() if file.exists() else None
    return [text, state.st_mtime_ns if state else 0, state.st_size if state else 0]
