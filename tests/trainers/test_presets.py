"""What kinds choose where nothing is asked for: more of sketch than of a base of full size."""

import pytest
import torch

import studio
from studio import Base
from studio.adapters.delta import Delta
from studio.bases.real_config import real_config
from trainers import DiffuseKronA, Kind, LoRA, SaRA
from trainers.engine.kind import new_deltas


@pytest.fixture(scope="module")
def sketch() -> Base:
    return studio.load_base("sketch", device="cpu")


def started(kind: Kind, base: Base) -> dict[str, Delta]:
    return new_deltas(kind.for_base(base), base, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [LoRA, DiffuseKronA])
def test_convolutions_and_feed_forward_layers_on_sketch_only(
    kind: type[Kind], sketch: Base
) -> None:
    assert any("resnets" in name for name in started(kind(), sketch))
    assert all(".attn" in name for name in started(kind(), real_config("sd15")))
    assert all(".attn" in name for name in started(kind(targets="attention"), sketch))  # pyright: ignore


def test_kronecker_products_of_small_factors_on_sketch(sketch: Base) -> None:
    shapes = {tuple(delta.a.shape) for delta in started(DiffuseKronA(), sketch).values()}  # pyright: ignore
    assert shapes == {(4, 4)}
    asked = started(DiffuseKronA(a1=8), sketch).values()
    assert {tuple(delta.a.shape) for delta in asked} == {(8, 4)}  # pyright: ignore


def test_three_in_twenty_of_the_weights_of_sketch(sketch: Base) -> None:
    layers = {name: one for name, one in sketch.layers().items() if name.startswith("unet.")}
    weights = torch.cat([layer.weight.detach().abs().flatten() for layer in layers.values()])  # pyright: ignore
    trained = sum(p.numel() for d in started(SaRA(), sketch).values() for p in d.parameters())
    assert trained == pytest.approx(0.15 * len(weights), rel=1e-3)
    below = sum(
        p.numel() for d in started(SaRA(threshold=2e-3), sketch).values() for p in d.parameters()
    )
    assert below == int((weights < 2e-3).sum())
