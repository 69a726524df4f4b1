"""The benchmark for GPUs, tried on a CPU with miniatures."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tests.benchmarks.gpu.__main__ as program
import trainers
from tests.benchmarks.gpu import drawing, training
from tests.benchmarks.gpu.report import Report


@pytest.mark.quality
def test_every_table_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "CASES", (drawing.CASES[0], drawing.CASES[-1]))
    monkeypatch.setattr(training, "KINDS", {"sara": training.KINDS["sara"]})
    monkeypatch.setattr(trainers, "estimate", lambda *_, **__: SimpleNamespace(step=0.1))
    file = tmp_path / "found" / "gpu.md"
    program.main(["--tiny", "--device", "cpu", "--steps", "1", "--out", str(file)])
    kept = file.read_text()
    assert kept in capsys.readouterr().out
    for first in ("cmlora | 3", "sum of 2, fused", "diffusers + peft | yes", "sara | fp32 | yes"):
        assert f"| {first} | " in kept
    assert "left out" not in kept
    assert "out of memory" not in kept


def test_rows_that_there_is_no_time_for_are_named(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu.md", torch.device("cpu"), seconds=0)
    assert not report.has_time
    report.skip("klora")
    assert report.file.read_text().endswith("| klora: left out, 0 s are over |\n")


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        program.main([])
    assert "sees no GPU" in capsys.readouterr().err
