"""`studio profile`: what it writes into adapters' files, and that it changes nothing else."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from compose import profiled
from studio.adapters.load import load_adapter
from studio.bases.load import load_base
from ui import cli

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def files(sdxl_folder: Path, tmp_path: Path) -> list[Path]:
    """One of Studio's own, and one in kohya's names that says nothing of itself."""
    generator = torch.Generator().manual_seed(0)
    made = {
        f"lora_unet_{LAYER.replace('.', '_')}.lora_down.weight": (4, 64),
        f"lora_unet_{LAYER.replace('.', '_')}.lora_up.weight": (64, 4),
        f"lora_unet_{LAYER.replace('.', '_')}.alpha": (),
    }
    tensors = {key: torch.randn(shape, generator=generator) for key, shape in made.items()}
    kohya = tmp_path / "kohya.safetensors"
    save_file(tensors, kohya, {"ss_output_name": "ink", "modelspec.trigger_phrase": "ink style"})
    own = tmp_path / "own.safetensors"
    load_adapter(kohya, base=load_base(sdxl_folder)).save(own)
    return [own, kohya]


def profile(files: list[Path], base: Path, *options: str) -> int:
    """The exit code of `studio profile`, one picture each."""
    words = [*map(str, files), "--base", str(base), "--pictures", "1", "--device", "cpu", "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["profile", *words, *options])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def metadata(path: Path) -> Mapping[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def test_the_rise_is_noted_and_all_else_stays(
    sdxl_folder: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = [(dict(load_file(path)), metadata(path)) for path in files]
    base = load_base(sdxl_folder, device="cpu")
    loaded = [load_adapter(path, base=base) for path in files]
    expected = [
        profiled(base, adapter, steps=2, pictures=1).recipe["frequency_rise"] for adapter in loaded
    ]
    assert profile(files, sdxl_folder, "--steps", "2") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["adapter"] for row in rows] == [str(path) for path in files]
    for row, path, rise, (tensors, told), was in zip(
        rows, files, expected, before, loaded, strict=True
    ):
        found = load_adapter(path)
        assert found.recipe == was.recipe | {"frequency_rise": pytest.approx(rise)}
        assert row["frequency_rise"] == pytest.approx(rise, abs=1e-4)
        assert row["leads"] == ("late" if rise < 0 else "early")
        assert (found.name, found.triggers, found.kind) == (was.name, was.triggers, was.kind)
        after = load_file(path)
        assert after.keys() == tensors.keys()
        assert all(torch.equal(after[key], tensors[key]) for key in tensors)
        others = {key: text for key, text in metadata(path).items() if key != "studio"}
        assert others == {key: text for key, text in told.items() if key != "studio"}
    assert sorted(path.name for path in files[0].parent.iterdir()) == [
        "kohya.safetensors",
        "own.safetensors",
    ]


def test_what_is_no_adapter_is_refused_before_anything_is_measured(
    sdxl_folder: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files[0].read_bytes()
    damaged = Path(shutil.copy(files[0], tmp_path / "damaged.safetensors"))
    damaged.write_bytes(before[:-1])
    for wrong, said in ((damaged, "damaged"), (f"{files[0]}:style", "give the whole file")):
        assert profile([files[0], Path(wrong)], sdxl_folder, "--steps", "1") == 2
        assert said in capsys.readouterr().err
    assert files[0].read_bytes() == before
