"""Pictures of a base whose weights are stored in 8 or 4 bits, with every method."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from compose import CMLoRA, Composite, KLoRA, Merge, Method, Regions, Switch, render
from compose.engine.weights.render_cache import cache_of
from studio.adapters.delta import LowRank, swap_weights, weight_shape
from studio.adapters.rank_schedule import RankSchedule
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.quantized import widened
from studio.requests.shot import Shot
from tests.compose.engine.test_memory import adapter
from tests.quantized import FORMS, installed, round_weights

METHODS: list[tuple[Method, int]] = [
    (Merge(), 0),
    (Merge(), 2),
    (Merge(combination="ties"), 2),
    (Switch(interval=1), 2),
    (KLoRA(), 2),
    (Composite(), 2),
    (CMLoRA(), 3),
]


@pytest.fixture(scope="module", params=FORMS)
def pair(request: pytest.FixtureRequest, sdxl_folder: Path) -> tuple[Base, Base]:
    """A quantized base, and one in whose plain weights are the rounded numbers."""
    installed(request.param)
    stored = load_base(sdxl_folder, device="cpu", quantize=request.param)
    return stored, round_weights(load_base(sdxl_folder, device="cpu"), request.param)


def shot(base: Base, method: Method, count: int) -> Shot:
    """Of low-rank changes and, where there are three, one of another form."""
    adapters = tuple((adapter(base, n, kron=n == 2), 0.8) for n in range(count))
    return Shot("a red cat", seed=1, steps=2, adapters=adapters, method=method)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize(("method", "count"), METHODS)
def test_every_method_draws_what_it_draws_of_rounded_weights(
    method: Method, count: int, low_memory: bool, pair: tuple[Base, Base]
) -> None:
    stored, rounded = pair
    wanted = shot(rounded, method, count)
    before = {name: one.clone() for name, one in stored.unet.state_dict().items()}
    expected = render(rounded, wanted, output="latents")
    stored.low_memory = low_memory
    try:
        for _ in range(2):
            assert torch.equal(render(stored, wanted, output="latents"), expected)
        assert not (low_memory and cache_of(stored).kept.nbytes)
    finally:
        stored.low_memory = False
    after = stored.unet.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    assert not any("forward" in vars(module) for module in stored.unet.modules())


def test_stored_weights_are_swapped_without_being_widened(
    pair: tuple[Base, Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {n: one for n, one in pair[0].layers().items() if is_parametrized(one, "weight")}
    new = {name: torch.randn(weight_shape(layer)) for name, layer in layers.items()}
    monkeypatch.setattr(widened.Widened, "forward", None)
    with swap_weights(layers, new):
        assert new and all(torch.equal(layers[name].weight, one) for name, one in new.items())
        with swap_weights(layers, {name: -one for name, one in new.items()}):
            assert all(torch.equal(layers[name].weight, -one) for name, one in new.items())


def test_changes_of_biases_are_drawn(pair: tuple[Base, Base]) -> None:
    stored, rounded = pair
    biased = adapter(rounded, 1)
    for name, delta in biased.deltas.items():
        if rounded.layers()[name].bias is not None:
            assert isinstance(delta, LowRank)
            delta.up_bias = nn.Parameter(torch.randn(delta.shape[0]) / 10)
    wanted = Shot("a red cat", seed=1, steps=2, adapters=((biased, 0.8),))
    expected = render(rounded, wanted, output="latents")
    assert torch.equal(render(stored, wanted, output="latents"), expected)


def test_ranks_that_fall_with_the_noise_are_drawn(pair: tuple[Base, Base]) -> None:
    stored, rounded = pair
    falling = replace(adapter(rounded, 1), rank_schedule=RankSchedule(1, 4))
    wanted = Shot("a red cat", seed=1, steps=2, adapters=((falling, 0.8),))
    expected = render(rounded, wanted, output="latents")
    assert torch.equal(render(stored, wanted, output="latents"), expected)


def test_gradients_of_the_latents_are_those_of_rounded_weights(
    pair: tuple[Base, Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLoRA's update of the latents; autograd keeps no widened weight for it."""
    stored, rounded = pair
    adapters = tuple(
        (replace(adapter(rounded, seed), triggers=(word,)), 0.8)
        for seed, word in enumerate(("cat", "dog"))
    )
    method = Regions(masks="attention", contrast=0.2)
    wanted = Shot("a cat and a dog", seed=1, steps=2, adapters=adapters, method=method)
    expected = render(rounded, wanted, output="latents")
    packed = []
    really_pack = widened._pack
    monkeypatch.setattr(widened, "_pack", lambda one: packed.append(really_pack(one)) or packed[-1])
    assert torch.equal(render(stored, wanted, output="latents"), expected)
    assert any(isinstance(one, tuple) for one in packed)
