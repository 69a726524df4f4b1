"""One training at a time in a run's folder."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import trainers
from studio import Base
from studio.errors import BadInput
from trainers import LoRA, Started, Step
from trainers.engine.run.lock import check_not_training, lock_folder

SHORT = {"trigger": "a sks robot", "steps": 3, "batch": 1, "save_every": 1}
HOLD_FOREVER = """
import sys, time
from pathlib import Path
from trainers.engine.run.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_trainings_begun_at_once_get_folders_of_their_own(
    sdxl: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are prepared before the first begins, as processes do that start together."""
    monkeypatch.chdir(tmp_path)
    prior = {"prior_class": "a robot", "prior_count": 1}
    pictures = {"draw": lambda prompt, seed: Image.new("RGB", (64, 64))}
    prepared = [
        trainers.train(LoRA(rank=2), sdxl, folder, **SHORT, **prior, **pictures) for _ in range(3)
    ]
    runs = []
    for training in prepared:
        events = list(training)
        assert isinstance(events[0], Started)
        runs.append(events[0].run)
    assert runs == [Path(f"runs/lora-{number}") for number in (1, 2, 3)]
    for run in runs:
        assert len((run / "log.jsonl").read_text().splitlines()) == 3
        assert (run / "prior" / "class-0000.png").is_file()


def test_a_second_training_in_a_folder_is_refused(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    first, second = (
        trainers.train(LoRA(rank=2), sdxl, folder, run=tmp_path / "run", **SHORT) for _ in range(2)
    )
    next(first)
    said = "is being trained by another process: wait until that ends"
    with pytest.raises(BadInput, match=said):
        next(second)
    with pytest.raises(BadInput, match=said):
        trainers.train(LoRA(rank=2), sdxl, folder, run=tmp_path / "run", **SHORT)
    with pytest.raises(BadInput, match=said):
        trainers.resume(tmp_path / "run", sdxl)
    assert len([event for event in first if isinstance(event, Step)]) == 3
    check_not_training(tmp_path / "run")  # its end lets go


def test_of_two_resumes_the_second_is_refused(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    cut = trainers.train(LoRA(rank=2), sdxl, folder, run=tmp_path / "run", **SHORT)
    while not isinstance(next(cut), Step):
        pass
    cut.close()
    first, second, third = (trainers.resume(tmp_path / "run", sdxl) for _ in range(3))
    next(first)
    with pytest.raises(BadInput, match="is being trained by another process"):
        next(second)
    with pytest.raises(BadInput, match="is being trained by another process"):
        trainers.resume(tmp_path / "run", sdxl)
    list(first)
    with pytest.raises(BadInput, match="was trained further meanwhile"):
        next(third)


def test_the_lock_of_a_killed_process_does_not_stay(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_FOREVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="is being trained"):
            check_not_training(tmp_path)
        holder.send_signal(signal.SIGKILL)
    with lock_folder(tmp_path):
        pass


def test_a_link_in_the_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(BadInput, match="cannot be locked"):
        check_not_training(tmp_path)
    assert (tmp_path / "precious").read_text() == "precious"
