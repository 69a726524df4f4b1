"""Pictures: every method beside diffusers and peft, and again under a cap."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import compose
import studio
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from tests.benchmarks.composition import GUIDANCE, PROMPT, random_adapter
from tests.benchmarks.gpu.random_base import pipeline_of
from tests.benchmarks.gpu.report import Report, capped, ratio, seconds

CAP = 8.0  # GB
STRENGTH = 0.8
CASES: tuple[tuple[str, compose.Method | None, int], ...] = (
    ("plain", None, 0),
    ("merge", compose.Merge(), 2),
    ("switch", compose.Switch(), 2),
    ("klora", compose.KLoRA(), 2),
    ("composite", compose.Composite(), 2),
    ("cmlora", compose.CMLoRA(), 3),
)


@dataclass(frozen=True)
class Drawer:
    """Draws latents on one base."""

    base: Base
    adapters: list[Adapter]
    steps: int
    report: Report

    def shot(self, method: compose.Method | None, count: int) -> studio.Shot:
        pairs = tuple((one, STRENGTH) for one in self.adapters[:count])
        side = self.base.size
        return studio.Shot(
            PROMPT,
            width=side,
            height=side,
            steps=self.steps,
            guidance=GUIDANCE,
            scheduler="euler",
            adapters=pairs,
            method=method,
        )

    def timed(self, draw: Callable[[], object]) -> float:
        self.report.wait()
        begun = time.perf_counter()
        draw()
        self.report.wait()
        return time.perf_counter() - begun

    def twice(self, draw: Callable[[int], object]) -> tuple[float, float]:
        """Seconds of the first picture, and of the better of two after it."""
        first = self.timed(partial(draw, 1))
        return first, min(self.timed(partial(draw, seed)) for seed in (2, 3))


def measure_drawing(report: Report, base: Base, scratch: Path, *, steps: int) -> None:
    """Both tables of a base."""
    adapters = [random_adapter(base, seed) for seed in range(3)]
    drawer = Drawer(base, adapters, steps, report)
    compose.render(base, replace(drawer.shot(None, 0), steps=2), output="latents")  # warms up
    title = f"{base.name}, {base.size} x {base.size}, {base.precision}, {steps} steps, latents"
    report.table(title, "method", "adapters", "first", "next", "of plain", "peak (reserved)")
    plain = _ours(drawer, None)
    report.table(
        f"{base.name} under a cap of {CAP:g} GB, whole pictures",
        *("method", "adapters", "next", "of plain", "peak (reserved)"),
    )
    with capped(report.device, CAP):
        _ours(drawer, CAP)
    report.table(f"{base.name}, diffusers + peft", "way", "next", "of Studio's plain", "peak")
    _theirs(drawer, [one.save(scratch / f"{one.name}.safetensors") for one in adapters], plain)


def _ours(drawer: Drawer, cap: float | None) -> float:
    """A row for each method; seconds of the plain picture."""
    plain, report = 0.0, drawer.report
    output = "latents" if cap is None else "picture"
    for name, method, count in CASES:
        if not report.has_time:
            report.skip(name)
            continue
        report.reset_peak()
        shot = drawer.shot(method, count)
        try:
            first, following = drawer.twice(
                lambda seed, shot=shot: compose.render(
                    drawer.base, replace(shot, seed=seed), output=output
                )
            )
        except torch.OutOfMemoryError:
            report.row(name, str(count), "out of memory")
            continue
        plain = plain or following
        times = [seconds(following), ratio(following, plain), report.peak()]
        report.row(name, str(count), *([seconds(first)] if cap is None else []), *times)
    return plain


def _theirs(drawer: Drawer, files: list[Path], plain: float) -> None:
    """The plain picture, the sum of two unmerged and fused, and switching between two."""
    pipeline: Any = pipeline_of(drawer.base)
    names = [file.stem for file in files[:2]]
    kept = _encode(pipeline, drawer.base)

    def draw(seed: int, **more: object) -> object:
        return pipeline(
            **kept,
            width=drawer.base.size,
            height=drawer.base.size,
            num_inference_steps=drawer.steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **more,
        )

    def row(name: str, draw: Callable[[int], object]) -> None:
        if not drawer.report.has_time:
            drawer.report.skip(name)
            return
        drawer.report.reset_peak()
        _, following = drawer.twice(draw)
        cells = (seconds(following), ratio(following, plain or following), drawer.report.peak())
        drawer.report.row(name, *cells)

    row("plain", draw)
    for name, file in zip(names, files, strict=False):
        pipeline.load_lora_weights(str(file), adapter_name=name)
    pipeline.set_adapters(names, [STRENGTH] * 2)
    row("sum of 2, unmerged", draw)

    def turn(pipe: Any, step: int, timestep: object, given: dict) -> dict:
        pipe.set_adapters([names[(step + 1) % 2]], [STRENGTH])
        return given

    row("switch of 2", partial(draw, callback_on_step_end=turn))
    pipeline.set_adapters(names, [STRENGTH] * 2)
    pipeline.fuse_lora(adapter_names=names)
    row("sum of 2, fused", draw)
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()


def _encode(pipeline: Any, base: Base) -> dict[str, torch.Tensor]:
    """The prompt, encoded once for all pictures, as Studio does."""
    names = ("prompt_embeds", "negative_prompt_embeds")
    if base.family == "sdxl":
        names += ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    with torch.no_grad():
        found = pipeline.encode_prompt(
            prompt=PROMPT,
            negative_prompt=None if base.zero_negative else "",
            device=base.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
        )
    return dict(zip(names, found, strict=False))


def measure_sketch(report: Report, *, steps: int) -> None:
    """The small base that comes with Studio."""
    base = studio.load_base("sketch", device=report.device)
    drawer = Drawer(base, [], steps, report)
    report.table(f"sketch, {steps} steps", "way", "first", "next", "peak (reserved)")
    report.reset_peak()
    shot = drawer.shot(None, 0)
    draw = lambda seed: compose.render(base, replace(shot, seed=seed))  # noqa: E731
    first, following = drawer.twice(draw)
    report.row("a whole picture", seconds(first), seconds(following), report.peak())
