"""Check and read the header of a safetensors file without PyTorch.

The format: N in eight bytes, little-endian; N bytes of JSON; the tensors' bytes without gaps. The
library's `safe_open` checks most of it. Here are the rest: limits on the header's size and the
number of tensors, pickles, repeated names, and where each tensor's bytes lie.
"""

import json
import os
import re
import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from studio.adapters.component_folders import component_files
from studio.errors import BadInput
from studio.files import atomic_write, opened_file
from studio.json_value import parse_object

LARGEST_HEADER = 8 * 2**20  # bytes; tag counts of large data sets take a few million
MOST_TENSORS = 50_000
MOST_NAMES = 300_000  # strings in a header; each takes about a hundred bytes once it is parsed
# The number types that are read, as safetensors calls them.
DTYPES = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
DTYPES |= {"I64", "I32", "I16", "I8", "U8", "BOOL"}
# How files of other formats begin that are often named .safetensors.
STARTS = {
    b"GGUF": "a GGUF file, the quantised weights of a whole model: find it as .safetensors",
    b"<": "a web page: download the file itself",
    b"version ": "a pointer of Git LFS: download the file itself",
    b"\x89PNG": "a picture: name it .png",
    b"\xff\xd8\xff": "a picture: name it .jpg",
}
TEXT = re.compile(rb"[\t\n\r -~]{9}")  # never how a safetensors file begins: its eighth byte is 0
# The types' names in struct. BF16 and F8_E5M2 are the upper halves of float32 and float16.
NUMBERS = {"F64": "<d", "F32": "<f", "BF16": "<f", "F16": "<e", "F8_E5M2": "<e"}
NUMBERS |= {"I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B", "BOOL": "<?"}
ZIP = b"PK\x03\x04"
PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; '
    "w = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "s.save_file({k: v.clone().contiguous() for k, v in w.get('state_dict', w).items() "
    'if torch.is_tensor(v)}, sys.argv[2])" '
)


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    dtypes: as safetensors calls them, such as "F16". spans: where a tensor's bytes begin and end
    in the file. text: the header's own bytes, its length included. bytes: size of the whole file.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    spans: dict[str, tuple[int, int]]
    metadata: dict[str, str]
    text: bytes
    bytes: int


def read_header(path: Path) -> Header:
    """Read and check a file's header; for a folder, the headers of its components joined.

    Raises BadInput where it is no safetensors file, or where the header doesn't match the file.
    """
    if path.is_dir():
        parts = component_files(path).items()
        return _join({component: read_header(file) for component, file in parts})
    with opened_file(path) as file:
        return _header(file, path)


def read_number(path: Path, header: Header, key: str) -> float:
    """The value of a tensor that holds a single number. BadInput where it cannot be read."""
    if path.is_dir():
        path = component_files(path)[key.partition(".")[0]]
    first, last = header.spans[key]
    with opened_file(path) as file:
        file.seek(first)
        data = file.read(last - first)
    if header.dtypes[key] == "F8_E4M3":  # one bit of sign, four of exponent, three of fraction
        exponent, fraction = data[0] >> 3 & 15, data[0] & 7
        size = (fraction / 8 + (exponent > 0)) * 2.0 ** (max(exponent, 1) - 7)
        return -size if data[0] & 128 else size
    form = NUMBERS[header.dtypes[key]]
    return float(struct.unpack(form, data.rjust(struct.calcsize(form), b"\0"))[0])


def _join(parts: Mapping[str, Header]) -> Header:
    """The headers of an adapter's components as one. A span counts in its component's file."""
    return Header(
        shapes={f"{part}.{k}": v for part, head in parts.items() for k, v in head.shapes.items()},
        dtypes={f"{part}.{k}": v for part, head in parts.items() for k, v in head.dtypes.items()},
        spans={f"{part}.{k}": v for part, head in parts.items() for k, v in head.spans.items()},
        metadata={},
        text=b"".join(head.text for head in parts.values()),
        bytes=sum(head.bytes for head in parts.values()),
    )


def replace_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of a safetensors file; its tensors' bytes stay as they are.

    Raises BadInput as `read_header` does, and where the file cannot be written.
    """
    read_header(path)
    data = path.read_bytes()
    tensors = 8 + struct.unpack("<Q", data[:8])[0]
    entries: dict[str, object] = {**parse_object(data[8:tensors].decode(), str(path))}
    entries["__metadata__"] = dict(sorted(metadata.items()))
    with atomic_write(path) as file:
        file.write(header_bytes(entries))
        file.write(memoryview(data)[tensors:])


def header_bytes(entries: Mapping[str, object]) -> bytes:
    """The bytes of a header: its length, then its JSON."""
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _header(file: BinaryIO, path: Path) -> Header:
    size = os.fstat(file.fileno()).st_size
    start = file.read(9)
    # The archives that PyTorch writes begin with data.pkl.
    if start.startswith(ZIP) and b"data.pkl" not in file.read(200):
        raise BadInput(f"{path} is a ZIP archive: unpack it, and give a .safetensors file of it")
    _refuse_pickle(path, start)
    file.seek(9)
    if start[8:] != b"{":
        for beginning, what in STARTS.items():
            if start.startswith(beginning):
                raise BadInput(f"{path} is not a safetensors file but {what}")
        if not size:
            raise BadInput(f"{path} is empty: download it again")
        if TEXT.match(start):
            raise BadInput(f"{path} is not a safetensors file but a text: download the file itself")
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
    if not 2 <= length <= size - 8 or start[8:] != b"{":
        raise BadInput(f"{path} is not a safetensors file, or only part of one: download it again")
    if length > LARGEST_HEADER:
        raise BadInput(f"{path} has a header of {length} bytes, more than any adapter needs")
    text = start + file.read(length - 1)
    if text.count(b'"') - text.count(rb"\"") > 2 * MOST_NAMES:
        raise BadInput(f"{path} has a header of more texts than any adapter needs")
    try:
        # The library checks types, shapes and offsets against one another and the file's size.
        with safe_open(path, framework="np"):
            entries: Any = parse_object(text[8:].decode(), "its header", unique=True)
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"{path} is damaged ({error}): download it again") from error
    metadata = entries.pop("__metadata__", {})
    if len(entries) > MOST_TENSORS:
        raise BadInput(f"{path} holds {len(entries)} tensors, more than any adapter has")
    for key, entry in entries.items():
        if entry["dtype"] not in DTYPES:
            raise BadInput(f"{path} holds {key} as {entry['dtype']}, which is not read here")
    return Header(
        shapes={key: tuple(entry["shape"]) for key, entry in entries.items()},
        dtypes={key: entry["dtype"] for key, entry in entries.items()},
        spans={key: _span(entry["data_offsets"], len(text)) for key, entry in entries.items()},
        metadata=metadata,
        text=text,
        bytes=size,
    )


def _span(offsets: list[int], start: int) -> tuple[int, int]:
    first, last = offsets
    return start + first, start + last


def _refuse_pickle(path: Path, start: bytes) -> None:
    """A safetensors file may start with any byte, but its ninth is always a brace."""
    pickled = start.startswith(ZIP) or (start[:1] == b"\x80" and start[8:] != b"{")
    if pickled or path.suffix.lower() in PICKLES:
        raise pickle_error(path)


def pickle_error(path: Path) -> BadInput:
    """The refusal of a pickle, with the command that converts it."""
    new = path.with_suffix(".safetensors")
    new = new.with_stem(f"{new.stem}-converted") if new == path else new
    return BadInput(
        f"{path} is a pickle, which can run any code when it is opened; convert it once with "
        f"{CONVERT}{shlex.join(map(str, (path, new)))} and give the new file."
    )
