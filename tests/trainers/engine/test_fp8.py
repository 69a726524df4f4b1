"""A base whose weights are stored in 8 bits: what is rounded, what is learned, what is kept."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, UntypedStorage

import trainers
from studio import Base
from studio.adapters.delta import attach, swap_weights
from studio.bases import fp8
from studio.bases.fp8 import STORED, fp8_saving, stored_in_fp8, widening_again
from studio.bases.load import load_base
from studio.bases.real_config import real_config
from studio.bases.vae_tiles import use_tiles
from studio.cost.memory import module_bytes
from studio.cost.speed import Speed
from tests.trainers.engine.test_estimate import really, started
from tests.trainers.learning import NEAR, assert_lent, assert_resumes, learned
from tests.trainers.reference import peft_training
from trainers import OFT, BLoRA, DiffuseKronA, Kind, LoRA, Recipe, SaRA, TLoRA
from trainers.engine.data.randomness import generator_for
from trainers.engine.estimate.memory_model import training_cost
from trainers.engine.kind import new_deltas

KINDS = {
    "lora": LoRA(rank=2),
    "all layers": LoRA(rank=2, targets="all"),
    "dora": LoRA(rank=2, dora=True),
    "pissa": LoRA(rank=2, start="pissa", dropout=0.3),
    "diffusekrona": DiffuseKronA(),
    "sara": SaRA(budget=3000),
    "blora": BLoRA(rank=2),
    "oft": OFT(),
    "tlora": TLoRA(rank=2),
}


def rounded(weight: Tensor) -> Tensor:
    """What a weight in fp8 stands for, written out row by row."""
    rows = []
    for row in weight.detach():
        power = 2 ** int(torch.floor(torch.log2(448 / row.abs().max())))
        rows.append((row * power).to(torch.float8_e4m3fn).to(row.dtype) / power)
    return torch.stack(rows)


def rounded_weights(base: Base) -> dict[str, Tensor]:
    layers = base.layers().items()
    return {name: rounded(one.weight) for name, one in layers if STORED.fullmatch(name)}  # pyright: ignore


@contextmanager
def rounded_only(base: Base) -> Iterator[None]:
    """In the place of `Base.store_in_fp8`: plain weights that have the rounded numbers."""
    with base.use_weights(rounded_weights(base)):
        yield


def test_rows_are_rounded_each_in_its_own_steps() -> None:
    weight = torch.randn(5, 4, 3, 3) * torch.tensor([1e-6, 0.005, 0.02, 1, 300]).view(5, 1, 1, 1)
    weight[0] = 0
    layer = torch.nn.Conv2d(4, 5, 3)
    layer.weight.data = weight.clone()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with stored_in_fp8({"unet.mid_block.conv": layer}, dtype):
            widened = layer.weight.clone()
            stored = module_bytes(layer)
        assert widened.dtype == dtype
        # Every number of the format, in such steps, is one of the other dtypes too.
        assert torch.equal(widened[1:].double(), rounded(weight[1:]).double())
        assert not widened[0].any()
        assert (widened.double() - weight).abs().flatten(1).norm(dim=1).div(
            weight.flatten(1).norm(dim=1).clamp_min(1e-9)
        ).max() < 0.04
    assert torch.equal(layer.weight, weight)
    assert module_bytes(layer) - stored == fp8_saving({"unet.mid_block.conv": layer})


def test_steps_equal_peft_on_rounded_weights(
    sdxl64: Base, sdxl_folder: Path, folder: Path, tmp_path: Path
) -> None:
    kind = LoRA(rank=4, alpha=2)
    start = new_deltas(kind, sdxl64, generator=generator_for(3, "start"))
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
    for name, weight in rounded_weights(sdxl64).items():
        pipeline.unet.get_submodule(name.removeprefix("unet.")).weight.data.copy_(weight)
    pipeline.save_pretrained(tmp_path / "rounded")
    options = {"steps": 6, "seed": 3, "schedule": "constant"}
    adapter, ours = learned(kind, sdxl64, folder, tmp_path / "run", fp8=True, **options)
    theirs, expected = peft_training(tmp_path / "rounded", folder, kind, start, steps=6)
    assert ours == pytest.approx(theirs, abs=1e-5)
    for name, delta in adapter.deltas.items():
        for own, tensor in delta.tensors().items():
            key = f"{name.removeprefix('unet.')}.{own}"
            torch.testing.assert_close(tensor, expected[key], **NEAR)


@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [*((name, False) for name in KINDS), ("lora", True), ("sara", True)],
)
def test_every_kind_learns_what_it_learns_of_rounded_weights(
    name: str,
    checkpointing: bool,
    sdxl: Base,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"steps": 1, "batch": 1, "fp8": True, "checkpointing": checkpointing}
    with assert_lent(sdxl):
        adapter, losses = learned(KINDS[name], sdxl, folder, tmp_path / "fp8", **given)
    monkeypatch.setattr(Base, "store_in_fp8", rounded_only)
    plain, expected = learned(KINDS[name], sdxl, folder, tmp_path / "rounded", **given)
    assert losses == expected
    for layer, delta in plain.deltas.items():
        for own, tensor in delta.tensors().items():
            assert torch.equal(adapter.deltas[layer].tensors()[own], tensor), layer


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_half_precision_is_computed_of_the_stored_weights(
    dtype: str,
    sdxl_folder: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With autocast, and without it on a base in bf16."""
    base = load_base(sdxl_folder, device="cpu", dtype=dtype)
    given = {"steps": 2, "batch": 1, "fp8": True, "precision": "bf16"}
    with assert_lent(base):
        _, losses = learned(LoRA(rank=2), base, folder, tmp_path / "fp8", **given)
    monkeypatch.setattr(Base, "store_in_fp8", rounded_only)
    _, expected = learned(LoRA(rank=2), base, folder, tmp_path / "rounded", **given)
    assert losses == pytest.approx(expected, rel=1e-6)


def test_a_stopped_training_goes_on_the_same(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    assert_resumes(LoRA(rank=2, dora=True), sdxl, folder, tmp_path, after=1, steps=2, fp8=True)
    assert "fp8 = true" in (tmp_path / "cut" / "recipe.toml").read_text()


@pytest.mark.parametrize("kind", [LoRA(rank=4), OFT()])
def test_autograd_keeps_no_widened_weight(
    kind: Kind, sdxl: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = started(kind, sdxl)
    sdxl.unet.requires_grad_(False).train()
    said = training_cost(sdxl, deltas, Recipe(batch=2, fp8=True))
    kept: dict[int, UntypedStorage] = {}
    really_pack = fp8._pack

    def pack(tensor: Tensor) -> object:
        packed = really_pack(tensor)
        if isinstance(packed, Tensor):
            storage = packed.untyped_storage()
            kept[storage.data_ptr()] = storage
        return packed

    monkeypatch.setattr(fp8, "_pack", pack)
    with stored_in_fp8(sdxl.layers(), sdxl.dtype), attach(sdxl.layers(), deltas):
        with widening_again():
            predicted = really(sdxl, batch=2)
        predicted.square().mean().backward()
        modules = (sdxl.unet, *deltas.values())
        own = {t.data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    assert said.saved == sum(one.nbytes() for place, one in kept.items() if place not in own)


def test_sdxl_learns_in_4_gigabytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Counted for a GPU; the base is opened with `low_memory`, as it would not fit."""
    base = real_config("sdxl", dtype="bf16")
    base.offload = True
    gpu, speed = torch.device("cuda"), Speed(1e12, 1e11, 1e-5)
    module = "trainers.engine.estimate.estimate"
    monkeypatch.setattr(f"{module}.device_of", lambda base: gpu)
    monkeypatch.setattr(f"{module}.has_own_memory", lambda device: True)
    monkeypatch.setattr(f"{module}.measure_speed", lambda *_, **__: speed)
    monkeypatch.setattr(f"{module}.free_bytes", lambda device: None)

    use_tiles(base.vae)
    given = {"batch": 1, "checkpointing": True, "fp8": True}
    said = trainers.estimate(LoRA(rank=16), base, runs=tmp_path, drawing=False, **given)
    assert module_bytes(base.unet) / 1e9 == pytest.approx(5.14, abs=0.01)
    assert (module_bytes(base.unet) - fp8_saving(base.layers())) / 1e9 == pytest.approx(
        2.59, abs=0.02
    )
    assert said.bytes / 1e9 == pytest.approx(4.13, abs=0.05)


def test_weights_in_fp8_are_not_swapped(sdxl: Base) -> None:
    name = next(name for name in sdxl.layers() if STORED.fullmatch(name))
    weight = torch.zeros_like(sdxl.layers()[name].weight)  # pyright: ignore
    swapped = swap_weights(sdxl.layers(), {name: weight})
    with sdxl.store_in_fp8(), pytest.raises(RuntimeError, match="in fp8"), swapped:
        pass


def test_on_a_cpu_it_is_said_that_nothing_is_saved(
    sdxl: Base, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        learned(LoRA(rank=2), sdxl, folder, tmp_path / "run", fp8=True, steps=1)
    assert "fp8 saves memory on a GPU" in caplog.text
