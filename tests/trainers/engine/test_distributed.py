"""Two processes train what one does: a recipe's batch is that of both."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.conftest import make_pictures

ROOT = Path(__file__).resolve().parents[3]


def launched(
    command: list[str], *, processes: int, cwd: Path = ROOT
) -> list[subprocess.Popen[str]]:
    """Processes as `torchrun` starts them."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "ui.cli", *command],
            env=os.environ
            | told
            | {"RANK": str(number), "LOCAL_RANK": str(number), "OMP_NUM_THREADS": "1"}
            | {"PYTHONPATH": str(ROOT)},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


@pytest.mark.parametrize(("batch", "accumulation"), [("3", "1"), ("1", "2")])
def test_two_processes_train_what_one_does(
    sdxl_folder: Path, tmp_path: Path, batch: str, accumulation: str
) -> None:
    """Where they have unequal shares, and where each has whole batches; a prior beside them."""
    pictures = make_pictures(tmp_path / "pictures", sides=[(64, 64)] * 4)
    prior = make_pictures(tmp_path / "prior", sides=[(64, 64)] * 2)
    (prior / "1.txt").write_text("a robot")
    words = ["train", "lora", str(pictures), "--trigger", "a sks robot", "--rank", "4", "--json"]
    words += ["--base", str(sdxl_folder), "--steps", "4", "--lr", "1e-3"]
    words += ["--batch", batch, "--accumulation", accumulation]
    words += [
        "--prior-pictures",
        str(prior),
        "--ema",
        "0.5",
        "--text-encoders",
        "--save-every",
        "0",
    ]
    words += ["--save-every", "0", "--caption-dropout", "0.3", "--device", "cpu"]
    said = []
    for count in (1, 2):
        folder = tmp_path / f"by-{count}"
        running = launched(
            [*words, "--run", str(folder), "--out", str(folder / "out.safetensors")],
            processes=count,
        )
        ended = [(*process.communicate(), process.returncode) for process in running]
        assert all(code == 0 for _, _, code in ended), ended
        said.append(ended)
    (alone,), (first, second) = said
    assert json.loads(first[0])["steps"] == 4
    assert second[0] == ""  # one of them speaks
    assert abs(json.loads(alone[0])["loss"] - json.loads(first[0])["loss"]) < 1e-5
    ours, theirs = (load_file(tmp_path / f"by-{count}" / "adapter.safetensors") for count in (1, 2))
    assert ours.keys() == theirs.keys()
    # Not entry by entry: where a gradient is a rounding error, Adam still moves by the whole rate.
    learned = {name for name in ours if "lora_B" in name}  # they start at zero
    whole = torch.cat([ours[name].flatten() for name in sorted(learned)])
    other = torch.cat([theirs[name].flatten() for name in sorted(learned)])
    assert (whole - other).norm() < 0.01 * whole.norm()
    names = [{path.name for path in (tmp_path / f"by-{count}").iterdir()} for count in (1, 2)]
    assert names[0] == names[1]
    assert (tmp_path / "by-2" / "log.jsonl").read_text().count("\n") == 4


def test_processes_of_one_launcher_share_one_numbered_folder(
    sdxl_folder: Path, tmp_path: Path
) -> None:
    pictures = make_pictures(tmp_path / "pictures", sides=[(64, 64)] * 2)
    words = ["train", "lora", str(pictures), "--trigger", "a sks robot", "--rank", "2"]
    words += ["--base", str(sdxl_folder), "--steps", "2", "--batch", "2", "--device", "cpu"]
    running = launched(words, processes=2, cwd=tmp_path)
    ended = [(*process.communicate(), process.returncode) for process in running]
    assert all(code == 0 for _, _, code in ended), ended
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lora-1"]
