"""Captions: text files beside pictures, and the metadata files of Hugging Face's `imagefolder`.

The caption of `red.jpg` is the text in red.txt, red.caption, red.jpg.txt or red.jpg.caption, the
first of these that is there and not empty; then that in metadata.jsonl or metadata.csv. Endings may
be in upper case.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from studio.dataset.folders import list_folder
from studio.errors import BadInput
from studio.files import read_text
from studio.json_value import parse_object

ENDINGS = (".txt", ".caption")
METADATA_FILES = ("metadata.csv", "metadata.jsonl")  # what the last says counts
COLUMNS = ("text", "caption", "prompt")  # the first that says something is the caption


@dataclass(frozen=True)
class Listed:
    """What a metadata file says of a picture. text: empty for none.  file: its name."""

    text: str
    file: str


def tidy(text: str) -> str:
    """The text in one line, with single blanks."""
    return " ".join(text.split())


def caption_files(folder: Path) -> dict[str, list[Path]]:
    """The caption files of a folder by the name before their ending, in the order of choice."""
    found: dict[str, list[Path]] = {}
    files = [path for path in list_folder(folder) if path.suffix.lower() in ENDINGS]
    for path in sorted(files, key=_choice):
        if path.is_file() and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


def _choice(path: Path) -> tuple[int, bool, str]:
    return ENDINGS.index(path.suffix.lower()), path.suffix not in ENDINGS, path.name


def caption_beside(picture: Path, files: Mapping[str, list[Path]]) -> str:
    """The text of the file beside a picture, or nothing. files: as `caption_files` gives them."""
    for path in (*files.get(picture.stem, ()), *files.get(picture.name, ())):
        if text := tidy(read_text(path)):
            return text
    return ""


def read_metadata(folder: Path) -> dict[Path, Listed]:
    """What metadata.jsonl or metadata.csv says of the pictures of a folder and those below it.

    Raises BadInput where a row names no picture of the folder or has no column for its caption.
    """
    found: dict[Path, Listed] = {}
    for path in (folder / name for name in METADATA_FILES):
        if path.is_file():
            captions = metadata_captions(path).items()
            found |= {folder / name: Listed(text, path.name) for name, text in captions}
    if not found and (folder / "metadata.parquet").is_file():
        raise BadInput(
            f"{folder / 'metadata.parquet'} is not read: save it as metadata.csv, with the columns "
            "file_name and text."
        )
    return found


def metadata_captions(path: Path) -> dict[str, str]:
    """The captions in one of METADATA_FILES, by `file_name`; empty where a picture has none.

    Raises BadInput as `read_metadata` does.
    """
    rows = _csv_rows(path) if path.suffix == ".csv" else _jsonl_rows(path)
    return {_file_name(row, path.parent, where): _caption(row, where) for where, row in rows}


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number},"
            yield where, parse_object(line, where)


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    reader = csv.DictReader(StringIO(read_text(path), newline=""), restkey="more")
    try:
        for row in reader:
            yield f"{path}, line {reader.line_num},", row
    except csv.Error as error:
        raise BadInput(f"{path} is no CSV after line {reader.line_num}: {error}.") from error


def _file_name(row: Mapping[str, object], folder: Path, where: str) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise BadInput(f"{where} has no file_name; {_columns(row)}.")
    if "\0" in name or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{where} names {name[:200]!r}, which is not in the folder.")
    return name


def _caption(row: Mapping[str, object], where: str) -> str:
    there = [column for column in COLUMNS if column in row]
    if not there:
        raise BadInput(
            f"{where} has no caption; {_columns(row)}. Call that of the captions text, caption or "
            "prompt."
        )
    for column in there:
        text = row[column]
        if not isinstance(text, str | None):
            raise BadInput(f"{where} has a {column} that is no text: {str(text)[:80]}.")
        if text and text.strip():
            return tidy(text)
    return ""


def _columns(row: Mapping[str, object]) -> str:
    return f"its columns are {', '.join(row)}" if row else "it has no columns"
