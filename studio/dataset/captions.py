"""Read captions: text files beside pictures, and the metadata of Hugging Face's `imagefolder`.

The caption of `red.jpg` is in red.txt, red.caption, red.jpg.txt or red.jpg.caption: the first of
these that exists and is not empty. Otherwise it is in metadata.jsonl or metadata.csv. Suffixes may
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
METADATA_FILES = ("metadata.csv", "metadata.jsonl")  # where both name a picture, the last counts
COLUMNS = ("text", "caption", "prompt")  # the first that is not empty is the caption


@dataclass(frozen=True)
class Listed:
    """A picture's caption in a metadata file. text: may be empty.  file: the metadata's name."""

    text: str
    file: str


def tidy(text: str) -> str:
    """The text in one line, with single blanks."""
    return " ".join(text.split())


def caption_files(folder: Path) -> dict[str, list[Path]]:
    """The caption files of a folder by their name without suffix, the preferred one first."""
    by_stem: dict[str, list[Path]] = {}
    files = [path for path in list_folder(folder) if path.suffix.lower() in ENDINGS]
    for path in sorted(files, key=_preference):
        if path.is_file() and not path.name.startswith("."):
            by_stem.setdefault(path.stem, []).append(path)
    return by_stem


def _preference(path: Path) -> tuple[int, bool, str]:
    return ENDINGS.index(path.suffix.lower()), path.suffix not in ENDINGS, path.name


def caption_beside(picture: Path, files: Mapping[str, list[Path]]) -> str:
    """The caption in a file beside a picture; "" where there is none. files: `caption_files`."""
    for path in (*files.get(picture.stem, ()), *files.get(picture.name, ())):
        if text := tidy(read_text(path)):
            return text
    return ""


def read_metadata(folder: Path) -> dict[Path, Listed]:
    """The captions that metadata.jsonl or metadata.csv has, by picture, also in folders below.

    Raises BadInput where a row names no file inside the folder, or has no column for the caption.
    """
    listed: dict[Path, Listed] = {}
    for path in (folder / name for name in METADATA_FILES):
        if path.is_file():
            captions = metadata_captions(path).items()
            listed |= {folder / name: Listed(text, path.name) for name, text in captions}
    if not listed and (folder / "metadata.parquet").is_file():
        raise BadInput(
            f"{folder / 'metadata.parquet'} is not read: save it as metadata.csv, with the columns "
            "file_name and text."
        )
    return listed


def metadata_captions(path: Path) -> dict[str, str]:
    """The captions in one of METADATA_FILES, by `file_name`; "" for a picture without one.

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
    columns = [column for column in COLUMNS if column in row]
    if not columns:
        raise BadInput(
            f"{where} has no caption; {_columns(row)}. Call that of the captions text, caption or "
            "prompt."
        )
    for column in columns:
        text = row[column]
        if not isinstance(text, str | None):
            raise BadInput(f"{where} has a {column} that is no text: {str(text)[:80]}.")
        if text and text.strip():
            return tidy(text)
    return ""


def _columns(row: Mapping[str, object]) -> str:
    return f"its columns are {', '.join(row)}" if row else "it has no columns"
