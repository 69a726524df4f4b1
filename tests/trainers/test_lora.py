"""Which layers LoRA changes, counted on the real models, and how it starts."""

from math import nan

import pytest
import torch

from studio.adapters.delta import LowRank
from studio.bases.base import Base
from studio.bases.real_config import real_config
from studio.errors import BadInput
from trainers import LoRA
from trainers.engine.kind import new_deltas


@pytest.mark.parametrize(
    ("name", "layers", "parameters"),
    [("sd15", 128, 797_184), ("sd21", 128, 829_952), ("sdxl", 560, 5_806_080)],
)
def test_attention_of_the_real_models_is_found(name: str, layers: int, parameters: int) -> None:
    """The counts of rank 4 on q, k, v and out, as published for these models."""
    deltas = new_deltas(LoRA(rank=4), real_config(name), generator=torch.Generator())
    assert len(deltas) == layers
    assert sum(p.numel() for d in deltas.values() for p in d.parameters()) == parameters


def test_all_adds_feed_forward_and_convolutions(sdxl: Base) -> None:
    names = set(new_deltas(LoRA(rank=2, targets="all"), sdxl, generator=torch.Generator()))
    block = "unet.down_blocks.1.attentions.0"
    assert f"{block}.transformer_blocks.0.attn1.to_q" in names
    assert f"{block}.transformer_blocks.0.ff.net.0.proj" in names
    assert f"{block}.transformer_blocks.0.ff.net.2" in names
    assert f"{block}.proj_in" in names
    assert "unet.down_blocks.0.resnets.0.conv1" in names
    assert "unet.down_blocks.0.downsamplers.0.conv" in names
    assert "unet.up_blocks.0.resnets.0.conv_shortcut" in names
    left = {"conv_in", "conv_out", "time_embedding.linear_1", "add_embedding.linear_1"}
    assert not names & {f"unet.{name}" for name in left}
    assert not any("time_emb_proj" in name or name.startswith("text") for name in names)


def test_options_reach_the_delta(sdxl: Base) -> None:
    kind = LoRA(rank=4, alpha=2, rank_stabilised=True, dora=True, dropout=0.1)
    delta = next(iter(new_deltas(kind, sdxl, generator=torch.Generator()).values()))
    assert isinstance(delta, LowRank)
    assert (delta.rank, delta.scale, delta.dropout) == (4, pytest.approx(2 / 4**0.5), 0.1)
    assert delta.magnitude is not None
    plain = next(iter(new_deltas(LoRA(rank=8), sdxl, generator=torch.Generator()).values()))
    assert isinstance(plain, LowRank) and plain.scale == 1.0  # alpha is the rank unless given


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": nan}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": "text"}, "targets"),
    ],
)
def test_a_field_out_of_range_is_named(options: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        LoRA(**options)


def test_a_rank_that_no_layer_has_is_refused(sdxl: Base) -> None:
    widest = max(
        min(layer.weight.flatten(1).shape)  # pyright: ignore
        for name, layer in sdxl.layers().items()
        if name.startswith("unet.") and ".attn" in name
    )
    LoRA(rank=widest).for_base(sdxl)
    with pytest.raises(BadInput, match=f"rank above {widest}: give less"):
        LoRA(rank=widest + 1).for_base(sdxl)
