"""A batch made by a Ray cluster is the batch that one process makes."""

from pathlib import Path

import pytest

from tests.benchmarks.kills import files, write_manifest
from ui import cli

pytest.importorskip("ray", reason="Ray is an extra")


def ended(*words: object) -> int:
    with pytest.raises(SystemExit) as error:
        cli.main([str(word) for word in words])
    return int(error.value.code or 0)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_makes_the_files_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compose._evaluate.MOST_ON_CPU", 4 * 64)  # eight groups of two shots
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    manifest = write_manifest(tmp_path, steps=1)
    assert ended("batch", manifest, "--out", tmp_path / "one", "--device", "cpu") == 0
    words = ("batch", manifest, "--out", tmp_path / "ray", "--device", "cpu", "--resume")
    assert ended(*words, "--ray", "local") == 0
    assert files(tmp_path / "ray") == files(tmp_path / "one")
    next((tmp_path / "ray").glob("*.png")).unlink()
    assert ended(*words, "--ray", "local") == 0
    assert files(tmp_path / "ray") == files(tmp_path / "one")
