"""A method's schedule, before any picture is made: steps x layers x adapters, and its cost.

The method runs with an `eps` that only records the calls, so no model runs. A base is needed only
for DoRA and OFT, whose changes depend on the base's weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageColor, ImageDraw

from compose.engine.method import (
    Call,
    FindingMethod,
    Method,
    MethodAdapter,
    finding_steps,
    method_of,
    needs_text,
    phases,
    record_step,
)
from studio.errors import BadInput
from studio.requests.adapter_tags import find_adapter, take_adapter_tags
from studio.requests.speed import with_speed

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base
    from studio.requests.resolved_shot import ResolvedShot
    from studio.requests.shot import Shot

# Gives the unit vectors of a space with this number of dimensions.
Units = Callable[[int], "Sequence[Tensor]"]

# Cost of a pass that reuses deep features, as a share of a full one: SD 1.5 at 512 pixels.
SHALLOW = 0.35
COLOURS = ("#3b6fb6", "#d9822b", "#4a9a5b", "#b8474d", "#7d5ba6", "#8c6d4f", "#c56ca8", "#5f9ea0")
PARTS = ("down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out")
BACKGROUND, NOTHING, LINE, TEXT = "#ffffff", "#d5d5d5", "#a0a0a0", "#202020"
LEFT, TOP = 100, 30  # pixels of the margins


@dataclass(frozen=True)
class Pass:
    """One evaluation of the UNet, with and without the prompt.

    layers: the strength of each adapter in each layer of the UNet, by the adapter's place from 0
    and the layer's name. weight: of this pass's prediction in the step's prediction. shallow:
    whether the pass reuses deep features.
    """

    layers: dict[int, dict[str, float]]
    weight: float
    shallow: bool

    @property
    def cost(self) -> float:
        """The cost in full evaluations."""
        return SHALLOW if self.shallow else 1.0


@dataclass(frozen=True)
class Schedule:
    """The passes of every step.

    adapters: the number and name of each. layers: the layers of the UNet that any adapter changes,
    from input to output. times: how often the sampler runs the passes of each step; a second-order
    sampler runs them twice.
    """

    adapters: tuple[str, ...]
    layers: tuple[str, ...]
    steps: tuple[tuple[Pass, ...], ...]
    times: tuple[int, ...]

    @property
    def cost(self) -> float:
        """The cost in full evaluations of the UNet."""
        return sum(
            times * one.cost
            for step, times in zip(self.steps, self.times, strict=True)
            for one in step
        )

    @property
    def plain_cost(self) -> int:
        """The evaluations that a picture without adapters takes."""
        return sum(self.times)

    def picture(self, *, side: int = 720) -> Image.Image:
        """Steps from left to right, layers from top to bottom, a colour for each adapter.

        A step is as wide as its passes; a pass that reuses deep features is pale. side: the
        approximate width of the drawing in pixels.
        """
        columns = sum(map(len, self.steps))
        wide = max(3, side // max(columns, 1))
        high = max(1, side // 2 // max(len(self.layers), 1))
        size = (LEFT + wide * columns + 8, 2 * TOP + high * len(self.layers))
        picture = Image.new("RGB", (max(size[0], 320), size[1]), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        x = LEFT
        for number, step in enumerate(self.steps, start=1):
            draw.line((x, TOP - 4, x, size[1] - TOP), LINE)
            if number == 1 or number % 5 == 0:
                draw.text((x + 1, TOP - 14), str(number), TEXT)
            for one in step:
                for row, layer in enumerate(self.layers):
                    y = TOP + row * high
                    draw.rectangle((x + 1, y, x + wide - 1, y + high - 1), _colour(one, layer))
                x += wide
        self._blocks(draw, high)
        self._legend(draw, size[1] - TOP + 8)
        return picture

    def _blocks(self, draw: ImageDraw.ImageDraw, high: int) -> None:
        """Write the names of the UNet's blocks beside their first layers, where there is room."""
        free = 0
        before = ""
        for row, layer in enumerate(self.layers):
            block = ".".join(
                word for word in layer.split(".")[1:3] if word in PARTS or word.isdigit()
            )
            y = TOP + row * high
            if block != before and y >= free:
                draw.text((8, y - 1), block, TEXT)
                before, free = block, y + 11

    def _legend(self, draw: ImageDraw.ImageDraw, y: int) -> None:
        x = 8
        for at, name in enumerate(self.adapters):
            draw.rectangle((x, y, x + 10, y + 10), COLOURS[at % len(COLOURS)])
            draw.text((x + 14, y), name, TEXT)
            x += 26 + int(draw.textlength(name))
        title = f"{self.cost:g} evaluations of the UNet in {len(self.steps)} steps"
        draw.text((8, 2), title, TEXT)


def schedule(shot: "Shot | ResolvedShot", base: "Base | None" = None) -> Schedule:
    """The passes of the shot's method at each step.

    base: leaves out layers that it lacks; DoRA and OFT need a base. Without one, the scheduler is
    taken to be of first order unless the shot names one. Raises BadInput as rendering does.
    """
    from compose.engine.texts.learned_words import split_mixed
    from compose.engine.texts.trigger_effects import weighed_method
    from compose.engine.weights.render_cache import adapters_on
    from studio.adapters.adapter import Adapter
    from studio.adapters.load import load_adapter
    from studio.requests.resolved_shot import ResolvedShot, resolve, with_masks

    asked = shot.shot if isinstance(shot, ResolvedShot) else shot
    asked.check()
    asked, _ = with_speed(take_adapter_tags(asked, find_adapter))
    asked = with_masks(asked)
    if base is not None:
        adapters = resolve(shot, base).adapters
    else:
        named = (shot if isinstance(shot, ResolvedShot) else asked).adapters
        adapters = [
            (one if isinstance(one, Adapter) else load_adapter(one), float(strength))
            for one, strength in named
        ]
    pairs, _ = split_mixed(adapters)
    method = method_of(asked)
    method.check([adapter for adapter, _ in pairs])
    if base is not None:
        method = weighed_method(method, base, asked, [adapter for adapter, _ in pairs])
    elif needs_text(method):
        raise BadInput("weigh: what trigger words change is known only with a base: give one.")
    mixed: Sequence[MethodAdapter] = (
        [AdapterAlone(*pair) for pair in pairs] if base is None else adapters_on(base, pairs)
    )
    order = base.scheduler(asked.scheduler, asked.spacing).order if base else None
    return scheduled(method, asked, mixed, _units, order=order)


def scheduled(
    method: Method,
    shot: "Shot",
    mixed: Sequence[MethodAdapter],
    units: Units,
    *,
    order: int | None = None,
) -> Schedule:
    """What a method asks for with these adapters at each step of a shot.

    The answer to call k of a step is unit vector k, so the plan's prediction is the list of their
    weights. order: of the base's own scheduler, where that is known.
    """
    steps: list[tuple[Pass, ...]] = []
    for phase, count in phases(method, shot.passes):
        plan = phase.prepare(mixed, count)
        for step in range(count):
            calls, _ = record_step(plan, step, lambda _: units(1)[0])
            _, predicted = record_step(plan, step, units(len(calls)).__getitem__)
            weights = predicted.flatten()[: len(calls)].tolist()
            steps.append(tuple(_pass(*one, mixed) for one in zip(calls, weights, strict=True)))
    times = shot.evaluations(order)
    if isinstance(method, FindingMethod):
        times = (*times[: finding_steps(shot.steps_run)], *times)
    layers = {layer for one in mixed for layer in one.changed() if layer.startswith("unet.")}
    # The options of methods name adapters by these numbers.
    named = tuple(f"{place} {_name(one.adapter)}" for place, one in enumerate(mixed, start=1))
    return Schedule(named, tuple(sorted(layers, key=_depth)), tuple(steps), times)


@dataclass(frozen=True)
class AdapterAlone:
    """An adapter without a base; see MethodAdapter."""

    adapter: "Adapter"
    strength: float

    def changed(self) -> list[str]:
        return list(self.adapter.deltas)

    def change(self, layer: str) -> "Tensor":
        import torch

        from studio.adapters.delta import Rotation

        delta = self.adapter.deltas[layer]
        if delta.magnitude is not None or isinstance(delta, Rotation):
            raise BadInput(
                "An adapter is DoRA or OFT, whose change depends on the weights: give a base."
            )
        with torch.no_grad():
            return delta.dense(torch.zeros(delta.shape)).detach()

    def size(self, layer: str, k: int) -> "Tensor":
        from compose.engine.weights.adapter_change import entry_sums

        return entry_sums(self.change(layer), k)


def _units(count: int) -> "Sequence[Tensor]":
    """Unit vectors in the place of predictions: [1, 1, 1, count] each."""
    import torch

    return torch.eye(count).view(count, 1, 1, 1, count).unbind()


def _name(adapter: "Adapter") -> str:
    return adapter.name or (adapter.path.stem if adapter.path else adapter.kind)


def _pass(call: Call, weight: float, mixed: Sequence[MethodAdapter]) -> Pass:
    layers: dict[int, dict[str, float]] = {}
    for part in call.mix.parts:
        for layer in mixed[part.adapter].changed():
            inside = part.layers is None or layer in part.layers
            if part.strength and inside and layer.startswith("unet."):
                strengths = layers.setdefault(part.adapter, {})
                strengths[layer] = strengths.get(layer, 0.0) + part.strength
    return Pass(layers, weight, call.reuse is not None)


def _depth(layer: str) -> tuple[int, list[tuple[int, str]]]:
    """A sort key that puts the UNet's layers in order from input to output."""
    words = layer.split(".")[1:]
    part = PARTS.index(words[0]) if words[0] in PARTS else -1
    return part, [(int(word), "") if word.isdigit() else (-1, word) for word in words]


def _colour(one: Pass, layer: str) -> tuple[int, int, int]:
    """The mean of the colours of the adapters in a layer, pale for reused features."""
    own = [COLOURS[at % len(COLOURS)] for at, layers in one.layers.items() if layer in layers]
    if not own:
        return ImageColor.getrgb(NOTHING)[:3]
    sums = zip(*(ImageColor.getrgb(colour) for colour in own), strict=True)
    red, green, blue = (sum(values) // len(own) for values in sums)
    if not one.shallow:
        return red, green, blue
    return (red + 510) // 3, (green + 510) // 3, (blue + 510) // 3
