"""What comes with Studio is found, in a clone and in an installed package."""

import tomllib
from pathlib import Path

import pytest

from studio import assets

ROOT = Path(__file__).resolve().parent.parent


def test_assets_are_found_in_a_clone() -> None:
    for name in ("sketch/model_index.json", "sketch-sd1/model_index.json", "examples/robot"):
        assert assets.asset(name).exists()


def test_assets_are_found_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "INSTALLED", tmp_path)
    assert assets.asset("sketch") == tmp_path / "sketch"


def test_the_wheel_puts_assets_where_they_are_looked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["sources"] == {"assets": assets.INSTALLED.relative_to(ROOT).as_posix()}
    assert {"studio", "trainers", "compose", "ui", "assets/sketch"} <= set(wheel["only-include"])
    assert all((ROOT / folder).is_dir() for folder in wheel["only-include"])
