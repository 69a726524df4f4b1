"""An adapter that was brought to a strength is at strength 1 what it was there."""

from pathlib import Path

import pytest
import torch
from torch import nn

from studio import Adapter, BadInput, load_adapter
from studio.adapters.delta import Delta, Dense, Kron, LowRank, Sparse
from studio.adapters.rescale import scale_adapter

WEIGHT = torch.zeros(8, 12)
BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"


def every_form() -> dict[str, Delta]:
    """Each form of delta, as a file may hold it."""
    make = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make)

    return {
        f"{BLOCK}.attn1.to_q": LowRank(some(3, 12), some(8, 3), 1.5),
        f"{BLOCK}.attn1.to_k": LowRank(some(3, 12), some(8, 3), 2.0, rank_stabilised=True),
        f"{BLOCK}.attn1.to_v": Kron(some(2, 3), some(4, 4)),
        f"{BLOCK}.attn1.to_out.0": Kron(some(2, 3), some(4, 4), scale=0.5, rows_swapped=True),
        f"{BLOCK}.attn2.to_q": Sparse(torch.tensor([1, 7, 90]), some(3), (8, 12)),
        f"{BLOCK}.attn2.to_k": Dense(some(8, 12), some(8)),
    }


def test_every_form_is_scaled_and_so_is_its_file(tmp_path: Path) -> None:
    adapter = Adapter(deltas=every_form(), kind="lora", family="sdxl", triggers=("sks",))
    scaled = scale_adapter(adapter, 0.7)
    read = load_adapter(scaled.save(tmp_path / "scaled.safetensors"))
    assert read.triggers == ("sks",)
    for layer, delta in adapter.deltas.items():
        wanted = 0.7 * delta.dense(WEIGHT)
        torch.testing.assert_close(scaled.deltas[layer].dense(WEIGHT), wanted)
        # Values of a sparse delta lie in the file as halves.
        near = {"rtol": 2e-3, "atol": 2e-3} if isinstance(delta, Sparse) else {}
        torch.testing.assert_close(read.deltas[layer].dense(WEIGHT), wanted, **near)
        if delta.bias is not None:
            bias = scaled.deltas[layer].bias
            assert bias is not None
            torch.testing.assert_close(bias, 0.7 * delta.bias)


def test_the_adapter_itself_stays(tmp_path: Path) -> None:
    adapter = Adapter(deltas=every_form(), kind="lora", family="sdxl")
    before = {layer: delta.dense(WEIGHT).clone() for layer, delta in adapter.deltas.items()}
    scale_adapter(adapter, 0.0)
    assert all(torch.equal(adapter.deltas[one].dense(WEIGHT), was) for one, was in before.items())
    assert scale_adapter(adapter, 1) is adapter


def test_dora_and_what_is_no_number_are_refused() -> None:
    layer = nn.Linear(12, 8)
    dora = LowRank.start(layer, 2, alpha=2.0, dora=True)
    adapter = Adapter(deltas={"unet.a": dora}, kind="lora", family="sdxl")
    with pytest.raises(BadInput, match="keep it at strength 1"):
        scale_adapter(adapter, 0.5)
    with pytest.raises(BadInput, match="finite"):
        scale_adapter(adapter, float("nan"))
