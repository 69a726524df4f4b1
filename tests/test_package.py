"""What comes with Studio is found, in a clone and in an installed package."""

from pathlib import Path

import pytest

from studio import assets


def test_assets_are_found_in_a_clone() -> None:
    for name in ("sketch/model_index.json", "sketch-sd1/model_index.json", "examples/robot"):
        assert assets.asset(name).exists()


def test_assets_are_found_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "INSTALLED", tmp_path)
    assert assets.asset("sketch") == tmp_path / "sketch"
