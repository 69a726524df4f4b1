"""Two processes train what one does: a recipe's batch is that of both."""

import json
import multiprocessing
import os
import socket
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests.trainers.conftest import make_pictures
from tests.ui.conftest import quick_trainings
from ui import cli

__all__ = ["quick_trainings"]  # a fixture is found by its name here

SHARES = {
    "unequal": ["--batch", "3"],
    "whole-batches": ["--batch", "1", "--accumulation", "2"],
}


def printed_by_each(commands: list[list[str]], *, processes: int, cwd: Path) -> list[str]:
    """What each of the processes that `torchrun` would start prints, each running all commands.

    They are copies of this one, which has imported what they need. Where one fails, the others
    would wait for it: they are ended.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    said = [cwd.with_name(f"said by {number}") for number in range(processes)]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    told["OMP_NUM_THREADS"] = "1"  # without it accelerate warns
    fork = multiprocessing.get_context("fork")
    running = [
        fork.Process(
            target=run_as,
            args=(told | {"RANK": str(number), "LOCAL_RANK": str(number)}, commands, cwd, file),
            daemon=True,
        )
        for number, file in enumerate(said)
    ]
    for process in running:
        process.start()
    while any(process.is_alive() for process in running):
        if any(process.exitcode for process in running):
            for process in running:
                process.kill()
        time.sleep(0.05)
    assert [process.exitcode for process in running] == [0] * processes
    return [file.read_text() for file in said]


def run_as(told: dict[str, str], commands: list[list[str]], cwd: Path, said: Path) -> None:
    """Run commands in this folder, as a process that is told this, and print into a file."""
    os.environ |= told
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process it is a copy of
    os.chdir(cwd)
    with said.open("w") as file, redirect_stdout(file):
        for command in commands:
            run(command)


def run(command: list[str]) -> None:
    """Run a command, which is to end well."""
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 0


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
    quick_trainings: None,
    training: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where they have unequal shares, and where each has whole batches."""
    capsys.readouterr()
    for name, share in SHARES.items():
        out = ["--run", str(tmp_path / name), "--out", str(tmp_path / f"{name}.safetensors")]
        run([*training, *share, *out])
    alone = texts(capsys.readouterr().out)

    # Without --run: the processes share one folder, which none of them is told of.
    commands = [
        [*training, *share, "--out", f"{name} by two.safetensors"] for name, share in SHARES.items()
    ]
    (tmp_path / "two").mkdir()
    first, second = printed_by_each(commands, processes=2, cwd=tmp_path / "two")
    assert second == ""  # one of them speaks
    runs = tmp_path / "two" / "runs"
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
