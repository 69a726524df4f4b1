"""When blocks are compiled, and when not; the compiler is a fake but for one test."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch._inductor import config as inductor

from studio import Base
from studio.bases.load import load_base
from tests.quantized import FORMS, installed
from tests.trainers.learning import assert_lent, learned
from trainers import LoRA
from trainers.engine.compiled_blocks import COMPILED, COMPILING, PLAIN, CompiledBlocks


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What was compiled: such a block is called as ever, and notes that."""
    found: list[nn.Module] = []

    def compile_(block: nn.Module) -> None:
        found.append(block)
        block._compiled_call_impl = block._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile_)
    return found


def called(blocks: list[nn.Module]) -> list[bool]:
    return [block._compiled_call_impl is not None for block in blocks]


@pytest.mark.parametrize(("speed", "kept"), [(0.5, True), (0.99, False), (2.0, False)])
def test_what_is_faster_goes_on(
    speed: float, kept: bool, sdxl: Base, compiled: list[nn.Module]
) -> None:
    blocks = CompiledBlocks(sdxl.unet)
    with blocks.chosen(wanted=True):
        for step in range(PLAIN):
            assert not compiled
            blocks.note(9.0 if step == 0 else 1.0)  # the first one warms up
        assert {type(one).__name__ for one in compiled} == {"BasicTransformerBlock"}
        for _ in range(COMPILING):
            blocks.note(60.0)
        for _ in range(COMPILED - 1):
            blocks.note(speed)
        assert all(called(compiled))
        blocks.note(speed)
        assert set(called(compiled)) == {kept}
    assert not any(called(compiled))


def test_nothing_is_compiled_unless_it_is_asked_for(sdxl: Base, compiled: list[nn.Module]) -> None:
    blocks = CompiledBlocks(sdxl.unet)
    with blocks.chosen(wanted=False):
        for _ in range(PLAIN + COMPILING + COMPILED):
            blocks.note(1.0)
    assert not compiled


def test_a_training_learns_the_same(
    sdxl: Base, folder: Path, tmp_path: Path, compiled: list[nn.Module]
) -> None:
    given = {"steps": PLAIN + 1, "batch": 1}
    _, plain = learned(LoRA(rank=2), sdxl, folder, tmp_path / "plain", **given)
    with assert_lent(sdxl):
        _, losses = learned(LoRA(rank=2), sdxl, folder, tmp_path / "run", compile=True, **given)
    assert compiled and not any(called(compiled))
    assert losses == plain


@pytest.mark.quality
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["none", *FORMS])
def test_the_compiler_takes_blocks_with_deltas(
    form: str, sdxl_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block for all, which are alike, since each of another width takes seconds to compile."""

    class OneBlock(CompiledBlocks):
        def __init__(self, unet: UNet2DConditionModel) -> None:
            super().__init__(unet)
            self._blocks = self._blocks[:1]

    installed(form)
    monkeypatch.setattr("trainers.engine.loop.CompiledBlocks", OneBlock)
    base = load_base(sdxl_folder, device="cpu", quantize=form)
    given = {"steps": PLAIN + 2, "batch": 1}
    _, plain = learned(LoRA(rank=2), base, folder, tmp_path / "plain", **given)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with inductor.patch(compile_threads=1):  # no processes for one block
        _, losses = learned(LoRA(rank=2), base, folder, tmp_path / "run", compile=True, **given)
    assert losses == pytest.approx(plain, rel=1e-4)
    assert counters["stats"]["unique_graphs"] > 0
