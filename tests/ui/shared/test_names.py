"""FILE[:STRENGTH], FOLDER[:WEIGHT] and file names."""

from pathlib import Path

import pytest

from studio.dataset.folders import Folder
from studio.errors import BadInput
from ui.shared.names import parse_adapter, parse_folder, slug


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of awkward names in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.safetensors", "C:\\art\\a.safetensors", "a.safetensors:content", "0.5"):
        Path(name).touch()


@pytest.mark.parametrize(
    ("text", "file", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a.safetensors:.5", "a.safetensors", 0.5),
        ("C:\\art\\a.safetensors", "C:\\art\\a.safetensors", 1.0),
        ("C:\\art\\a.safetensors:0.3", "C:\\art\\a.safetensors", 0.3),
        ("a.safetensors:content", "a.safetensors:content", 1.0),
        ("a.safetensors:content:0.8", "a.safetensors:content", 0.8),
        ("0.5", "0.5", 1.0),
    ],
)
@pytest.mark.usefixtures("files")
def test_only_a_number_at_the_end_is_a_strength(text: str, file: str, strength: float) -> None:
    assert parse_adapter(text) == (file, strength)


@pytest.mark.parametrize("text", ["a.safetensors:nan", "a.safetensors:101", "b.safetensors:1", ""])
@pytest.mark.usefixtures("files")
def test_no_finite_strength_or_no_file_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--adapter"):
        parse_adapter(text)


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("photos", "photos", 1.0),
        ("photos/:2", "photos", 2.0),
        ("C:\\art", "C:\\art", 1.0),
        ("C:\\art:.5", "C:\\art", 0.5),
        ("take:2", "take:2", 1.0),  # a folder of that name
        ("take:2:3", "take:2", 3.0),
    ],
)
def test_only_a_number_at_the_end_is_a_weight(
    text: str, path: str, weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take:2").mkdir()
    assert parse_folder(text) == Folder(Path(path), weight)


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(BadInput, match="empty name"):
        parse_folder("")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A sks robot, ink style!", "a-sks-robot-ink-style"),
        ("../../etc/passwd", "etc-passwd"),
        ("Ein Käfer", "ein-käfer"),
        ("?!", ""),
    ],
)
def test_texts_become_file_names(text: str, name: str) -> None:
    assert slug(text) == name


def test_long_texts_become_short_names() -> None:
    assert len(slug("word " * 100)) <= 60
    assert slug("\N{MATHEMATICAL BOLD SMALL A}" * 100) == "\N{MATHEMATICAL BOLD SMALL A}" * 45


@pytest.mark.parametrize("behind", ["look", "style=0.8", "style:0.8x"])
@pytest.mark.usefixtures("files")
def test_what_may_stand_behind_a_file_is_said_where_something_else_does(behind: str) -> None:
    with pytest.raises(BadInput, match=r"a half and a strength, as in :style:0\.8"):
        parse_adapter(f"a.safetensors:{behind}")
