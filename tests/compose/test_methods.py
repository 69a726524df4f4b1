"""Every method's latents against the same method run with diffusers' pipeline and peft."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from compose import CMLoRA, Composite, KLoRA, Merge, Method, Switch, render
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import open_pipeline
from tests.compose.plainly import Plainly
from tests.compose.test_samplers import SAMPLERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning:torchsde"),
]

# Odd numbers, of which samplers of second order make five passes.
STEPS = dict.fromkeys(SAMPLERS, 3) | {"euler": 5}
STRENGTHS = (0.8, -0.5)


def rounds(steps: int, interval: int = 2) -> tuple[list[list[float]], list[list[int]]]:
    """CMLoRA's weights of two adapters, and which of them are evaluated in full, step by step."""
    lead, other = 2 * 1.5 / 2.5, 2 * 1.0 / 2.5  # w0 = N - 1/2 times the other's, N in all
    turns = [step // interval % 2 for step in range(steps)]
    weights = [[lead, other] if turn == 0 else [other, lead] for turn in turns]
    fresh = [[turn] if step % interval == 0 else [] for step, turn in enumerate(turns)]
    fresh[0] = [0, 1]
    return weights, fresh


Reference = Callable[[Plainly], Tensor]
METHODS: Sequence[tuple[Method, Reference]] = (
    (Merge(), Plainly.merge),
    (Switch(interval=2), lambda plainly: plainly.switch(2)),
    (Composite(), Plainly.composite),
    (KLoRA(), Plainly.klora),
    (CMLoRA(interval=2), lambda plainly: plainly.cmlora(*rounds(plainly.steps))),
)


@pytest.fixture(scope="module")
def plainly(
    folders: dict[str, Path], lora_files: dict[str, tuple[Path, Path]]
) -> dict[str, Plainly]:
    """A pipeline of each family with its two adapters, text encoders' changes included."""
    found = {}
    for family in ("sdxl", "sd1"):
        pipe = open_pipeline(folders[family])
        for name, path in zip(("one", "two"), lora_files[family], strict=True):
            pipe.load_lora_weights(str(path), adapter_name=name)
        found[family] = Plainly(
            pipe,
            dict(zip(("one", "two"), STRENGTHS, strict=True)),
            "a sks cat in ink style",
            negative="photo",
            guidance=4.0,
            seed=9,
            # The deepest features of the tiny SD 1 are an eighth as wide as its latents. Of one
            # pixel, GroupNorm makes nothing but signs, and the last bits decide the picture.
            size=128 if family == "sd1" else 64,
        )
    return found


@pytest.mark.parametrize("method", METHODS, ids=lambda pair: type(pair[0]).__name__)
@pytest.mark.parametrize(
    ("family", "scheduler"),
    [*(("sdxl", scheduler) for scheduler in STEPS), ("sd1", "heun"), ("sd1", "dpmpp_sde")],
)
def test_latents_are_those_of_peft_and_diffusers(
    bases: dict[str, Base],
    plainly: dict[str, Plainly],
    lora_files: dict[str, tuple[Path, Path]],
    family: str,
    scheduler: str,
    method: tuple[Method, Reference],
) -> None:
    base = bases[family]
    theirs = dataclasses.replace(plainly[family], steps=STEPS[scheduler])
    pipe = theirs.pipeline
    kind, settings = SAMPLERS[scheduler]
    own = {**base.scheduler_config, **settings, "noise_sampler_seed": theirs.seed}
    pipe.scheduler = kind.from_config(own)
    ours, reference = method
    shot = Shot(
        theirs.prompt,
        negative=theirs.negative,
        seed=theirs.seed,
        width=theirs.size,
        height=theirs.size,
        steps=theirs.steps,
        guidance=theirs.guidance,
        scheduler=scheduler,
        adapters=tuple(zip(map(load_adapter, lora_files[family]), STRENGTHS, strict=True)),
        method=ours,
    )
    expected = reference(theirs)
    torch.testing.assert_close(render(base, shot, output="latents"), expected, rtol=1e-4, atol=1e-4)
    plain = cast(Tensor, render(base, dataclasses.replace(shot, adapters=()), output="latents"))
    assert (expected - plain).abs().max() > 0.01  # the adapters do show


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Switch(0), "interval must be a whole number of at least 1; it is 0"),
        (Switch(turns=(1, 0, 2)), "item 2 of turns"),
        (Merge(rank=0), "rank"),
        (Merge(density=0.0), "density"),
        (Merge(seed=-1), "seed"),
        (Merge("np", kappa=1.5), "kappa"),
        (Merge("np", k=0), "k must be"),
        (KLoRA(k=0), "k must be"),
        (CMLoRA(interval=-1), "interval"),
        (CMLoRA(split=1.5), "split"),
        (CMLoRA(lead=0.5), "lead"),
        (CMLoRA(decay=1.0), "decay"),
        (Composite(weights=(1, 2, -1)), "item 3 of weights"),
    ],
)
def test_options_out_of_range_are_refused(method: Method, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        method.check([])
