"""Adapters cut to a rank or to a share of their energy, against the SVD of the whole change."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from studio.adapters.adapter import Adapter
from studio.adapters.delta import BiasOnly, Delta, Dense, Kron, LowRank, Sparse
from studio.adapters.load import load_adapter
from studio.adapters.resize import resize_adapter
from studio.errors import BadInput
from ui.cli.app import main


def made(delta: Delta, layer: str = "unet.mid_block.to_q") -> Adapter:
    return Adapter(deltas={layer: delta}, kind="lora", family="sdxl", name="made")


def low_rank(rank: int = 6, *, conv: bool = False) -> LowRank:
    generator = torch.Generator().manual_seed(3)
    inside = (7, 3, 3) if conv else (9,)
    down = torch.randn(rank, *inside, generator=generator)
    up = torch.randn(8, rank, *((1, 1) if conv else ()), generator=generator)
    return LowRank(down, up, alpha=2.5)


def change(delta: Delta) -> Tensor:
    with torch.no_grad():
        return delta.dense(torch.zeros(delta.shape)).flatten(1)


@pytest.mark.parametrize(
    "delta",
    [
        low_rank(),
        low_rank(conv=True),
        low_rank(40),  # a rank above the layer's sides
        Kron(torch.randn(2, 3), torch.randn(4, 3)),
        Dense(torch.randn(8, 9), torch.randn(8)),
    ],
)
@pytest.mark.parametrize("rank", [1, 3, 99])
def test_a_rank_is_the_best_approximation(delta: Delta, rank: int) -> None:
    (found,) = resize_adapter(made(delta), rank=rank).deltas.values()
    assert isinstance(found, LowRank) and found.rank == min(
        rank, *change(delta).shape, *([delta.rank] if isinstance(delta, LowRank) else [])
    )
    left, sizes, right = torch.linalg.svd(change(delta), full_matrices=False)
    expected = (left[:, :rank] * sizes[:rank]) @ right[:rank]
    torch.testing.assert_close(change(found), expected, rtol=1e-4, atol=1e-4)
    assert found.shape == delta.shape and found.scale == 1
    if delta.bias is not None:
        assert found.bias is not None and torch.equal(found.bias, delta.bias)


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.95, 1.0])
def test_the_fewest_directions_of_an_energy_are_kept(energy: float) -> None:
    delta = low_rank()
    (found,) = resize_adapter(made(delta), energy=energy).deltas.values()
    assert isinstance(found, LowRank)
    share = torch.linalg.svdvals(change(delta)).square().cumsum(0)[:6]
    share = share / share[-1]
    assert share[found.rank - 1] >= energy - 1e-6
    assert found.rank == 1 or share[found.rank - 2] < energy
    kept = change(found).square().sum() / change(delta).square().sum()
    torch.testing.assert_close(kept, share[found.rank - 1])


def test_other_forms_stay_or_are_refused() -> None:
    shift, norm = BiasOnly(torch.ones(4)), Dense(torch.ones(4))
    for delta in (shift, norm):
        assert resize_adapter(made(delta), rank=1).deltas == {"unet.mid_block.to_q": delta}
    nothing = LowRank(torch.randn(4, 6), torch.zeros(5, 4), alpha=4)
    (found,) = resize_adapter(made(nothing), energy=0.9).deltas.values()
    assert isinstance(found, LowRank) and found.rank == 1 and not change(found).any()
    dora = LowRank.start(nn.Linear(6, 5), 2, alpha=2, dora=True)
    sparse = Sparse(torch.tensor([1]), torch.tensor([0.5]), (5, 6))
    for delta, said in ((dora, "is DoRA"), (sparse, "is sparse, not low-rank")):
        with pytest.raises(BadInput, match=said):
            resize_adapter(made(delta), rank=1)
    for options, said in (
        ({}, "one of them"),
        ({"rank": 1, "energy": 0.5}, "one of them"),
        ({"rank": 0}, "rank: 0"),
        ({"energy": 1.5}, "energy: 1.5"),
    ):
        with pytest.raises(BadInput, match=said):
            resize_adapter(made(low_rank()), **options)  # type: ignore[arg-type]


def test_the_command_writes_a_smaller_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    whole, small = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    made(low_rank(), layer).save(whole)
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            main(["resize", str(whole), "--rank", "2", "--out", str(small)])
    assert stopped.value.code == 2 and "already exists" in capsys.readouterr().err
    (found,) = load_adapter(small).deltas.values()
    assert isinstance(found, LowRank) and found.rank == 2
