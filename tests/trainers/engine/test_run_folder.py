"""The run's folder: whole checkpoints or none, and plain words when the disk is full."""

import errno
import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from studio.errors import BadInput
from studio.requests.training import TrainingRequest
from trainers.engine.run.folder import Log, Run, check_free_space, report_full_disk


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(BadInput, match="no space is left"), report_full_disk(Run(tmp_path)):
        raise error


def test_a_file_that_the_disk_has_no_room_for_says_which_run_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    said = pytest.raises(BadInput, match="free some, then resume this run")
    with said, report_full_disk(Run(tmp_path)):
        Run(tmp_path).create(TrainingRequest("lora", "sks"))


def test_other_errors_of_the_system_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), report_full_disk(Run(tmp_path)):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_space_is_asked_for_before_the_start(tmp_path: Path) -> None:
    check_free_space(tmp_path / "not" / "yet", 1000)
    with pytest.raises(BadInput, match="MB are free"):
        check_free_space(tmp_path / "not" / "yet", 10**18)


def test_the_log_drops_what_a_killed_run_wrote_too_much(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    log = Log(Run(tmp_path), keep=2)
    log.write({"step": 3, "loss": 0.25})
    log.close()
    kept = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in kept] == [0.5, 0.5, 0.25]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no recipe\.toml"):
        Run(tmp_path).read()
    (tmp_path / "recipe.toml").write_text("kind = ")
    with pytest.raises(BadInput, match="cannot be read"):
        Run(tmp_path).read()
    (tmp_path / "recipe.toml").write_text('kind = "lora"')
    with pytest.raises(BadInput, match="lacks"):
        Run(tmp_path).read()


def test_the_last_checkpoint_is_that_of_most_steps(tmp_path: Path) -> None:
    assert Run(tmp_path).last_checkpoint() is None
    for name in ("step-000900", "step-1000000", ".step-half", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    last = Run(tmp_path).last_checkpoint()
    assert last is not None
    assert last.name == "step-1000000"


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (2, 900, 1000, 1000000):
        run.checkpoint(step).mkdir(parents=True)
    run.keep_newest(2)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-001000", "step-1000000"]
