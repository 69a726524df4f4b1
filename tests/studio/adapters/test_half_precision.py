"""Deltas in float32 beside layers in bfloat16, against autocast, which casts the same factors."""

import pytest
import torch
from torch import Tensor, nn

from studio.adapters.delta import Delta, Kron, LowRank, attach
from studio.adapters.delta.layer import Layer

INPUTS = {"linear": (2, 5, 24), "conv": (2, 8, 6, 6)}


def frozen(name: str) -> Layer:
    """A layer in bfloat16, with the same weights each time."""
    torch.manual_seed(0)
    layer = nn.Linear(24, 16) if name == "linear" else nn.Conv2d(8, 16, 3, padding=1)
    return layer.to(torch.bfloat16).requires_grad_(False)


def low_rank(layer: Layer, **options: object) -> LowRank:
    draw = torch.Generator().manual_seed(0)
    delta = LowRank.start(layer, 4, alpha=8.0, generator=draw, **options)  # pyright: ignore
    nn.init.normal_(delta.up, std=0.1, generator=draw)
    return delta


def kron(layer: Layer) -> Kron:
    delta = Kron.start(layer, 4, 2, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(delta.b_parts[0], std=0.1, generator=torch.Generator().manual_seed(1))
    return delta


def results(layer: Layer, delta: Delta, x: Tensor, *, autocast: bool) -> list[Tensor]:
    """The output, and the gradients of the input and of what is trained."""
    delta.zero_grad()
    x = x.clone().requires_grad_()
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast)
    with attach({"a": layer}, {"a": delta}), mixed:
        given = layer(x)
    given.float().square().sum().backward()
    assert x.grad is not None
    return [given, x.grad, *(p.grad for p in delta.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("form", ["low rank", "dora", "kron"])
def test_without_autocast_it_is_as_with_it(name: str, form: str) -> None:
    layer = frozen(name)
    delta = kron(layer) if form == "kron" else low_rank(layer, dora=form == "dora")
    x = torch.randn(INPUTS[name], generator=torch.Generator().manual_seed(2)).bfloat16()
    plain, mixed = (results(layer, delta, x, autocast=on) for on in (False, True))
    assert [one.dtype for one in plain] == [one.dtype for one in mixed]
    assert all(p.dtype == torch.float32 for p in delta.parameters())
    for one, other in zip(plain, mixed, strict=True):
        difference = (one.float() - other.float()).norm() / other.float().norm()
        assert difference < 2**-7
