"""Two processes train what one does: a recipe's batch is that of both."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.conftest import make_pictures
from ui import cli

ROOT = Path(__file__).resolve().parents[3]
SHARES = {
    "unequal": ["--batch", "3"],
    "whole-batches": ["--batch", "1", "--accumulation", "2"],
}
# Commands one after the other, as a process that takes long to start can run several.
COMMANDS = """
import json, sys
from ui.cli import main
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as ended:
        if ended.code:
            raise
"""


def launched(
    commands: list[list[str]], *, processes: int, cwd: Path
) -> list[subprocess.Popen[str]]:
    """Processes as `torchrun` starts them, each of which runs all commands."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", COMMANDS, json.dumps(commands)],
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


def printed_by(running: list[subprocess.Popen[str]]) -> list[str]:
    """What each process printed. Where one fails, the others would wait for it: they are ended."""
    while any(process.poll() is None for process in running):
        if any(process.poll() for process in running):
            for process in running:
                process.kill()
        time.sleep(0.05)
    said = [process.communicate() for process in running]
    assert not any(process.returncode for process in running), "".join(error for _, error in said)
    return [out for out, _ in said]


def texts(printed: str) -> list[dict[str, float]]:
    """What several commands printed as JSON."""
    found, printed = [], printed.strip()
    while printed:
        one, end = json.JSONDecoder().raw_decode(printed)
        found.append(one)
        printed = printed[end:].strip()
    return found


@pytest.fixture
def training(sdxl_folder: Path, tmp_path: Path) -> list[str]:
    """The command, with a prior beside the pictures."""
    pictures = make_pictures(tmp_path / "pictures", sides=[(64, 64)] * 4)
    prior = make_pictures(tmp_path / "prior", sides=[(64, 64)] * 2)
    (prior / "1.txt").write_text("a robot")
    words = ["train", "lora", str(pictures), "--trigger", "a sks robot", "--rank", "4", "--json"]
    words += ["--base", str(sdxl_folder), "--steps", "3", "--lr", "1e-3", "--device", "cpu"]
    words += ["--prior-pictures", str(prior), "--ema", "0.5", "--text-encoders"]
    return [*words, "--save-every", "0", "--caption-dropout", "0.3"]


@pytest.mark.process
def test_two_processes_train_what_one_does(
    training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where they have unequal shares, and where each has whole batches."""
    capsys.readouterr()
    for name, share in SHARES.items():
        out = ["--run", str(tmp_path / name), "--out", str(tmp_path / f"{name}.safetensors")]
        with pytest.raises(SystemExit) as ended:
            cli.main([*training, *share, *out])
        assert ended.value.code == 0
    alone = texts(capsys.readouterr().out)

    # Without --run: the processes share one folder, which none of them is told of.
    commands = [
        [*training, *share, "--out", f"{name} by two.safetensors"] for name, share in SHARES.items()
    ]
    first, second = printed_by(launched(commands, processes=2, cwd=tmp_path))
    assert second == ""  # one of them speaks
    runs = tmp_path / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["lora-1", "lora-2"]
    for name, ours, one, both in zip(
        SHARES, ("lora-1", "lora-2"), alone, texts(first), strict=True
    ):
        assert both["steps"] == 3
        assert abs(one["loss"] - both["loss"]) < 1e-5
        assert_same_run(tmp_path / name, runs / ours)


def assert_same_run(run: Path, other: Path) -> None:
    """The files of the same names, as many lines in the log, and the same weights."""
    assert {path.name for path in run.iterdir()} == {path.name for path in other.iterdir()}
    assert (other / "log.jsonl").read_text().count("\n") == 3
    ours, theirs = (load_file(one / "adapter.safetensors") for one in (run, other))
    assert ours.keys() == theirs.keys()
    # Not entry by entry: where a gradient is a rounding error, Adam still moves by the whole rate.
    learned = sorted(name for name in ours if "lora_B" in name)  # they start at zero
    whole, shared = (torch.cat([one[name].flatten() for name in learned]) for one in (ours, theirs))
    assert (whole - shared).norm() < 0.01 * whole.norm()
