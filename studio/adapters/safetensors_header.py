"""The header of a safetensors file, read with suspicion and without PyTorch.

The container: eight bytes little-endian N, N bytes of JSON, the tensors' bytes without gaps. The
library's reader leaves it to the caller how much it will believe; hence this file.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from studio.errors import BadInput
from studio.files import atomic_write

__all__ = ["Header", "header_bytes", "read_header", "replace_metadata"]

LARGEST_HEADER = 32 * 2**20  # bytes; tag counts of large data sets take a few million
MOST_TENSORS = 100_000
# Bytes of a number, of those that are read.
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
SIZES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    dtypes: as safetensors calls them, such as "F16". spans: where a tensor's bytes begin and end
    in the file. text: the header as it stands there. bytes: of the whole file.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    spans: dict[str, tuple[int, int]]
    metadata: dict[str, str]
    text: bytes
    bytes: int


def read_header(path: Path) -> Header:
    """Read and check what the file says it holds, without its tensors.

    Raises BadInput for what is no safetensors file, and for one whose header lies.
    """
    try:
        with path.open("rb") as file:
            return _header(file, path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def replace_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Let a safetensors file say something else of itself; its tensors' bytes stay as they are.

    Raises BadInput as `read_header`, and where the file cannot be written.
    """
    read_header(path)
    data = path.read_bytes()
    tensors = 8 + struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8:tensors]) | {"__metadata__": dict(sorted(metadata.items()))}
    with atomic_write(path) as file:
        file.write(header_bytes(entries))
        file.write(memoryview(data)[tensors:])


def header_bytes(entries: Mapping[str, object]) -> bytes:
    """A header as it stands in front of the tensors, its length before it."""
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _header(file: BinaryIO, path: Path) -> Header:
    size = os.fstat(file.fileno()).st_size
    start = file.read(9)
    _refuse_pickle(path, start)
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
    if not 2 <= length <= size - 8 or start[8:] != b"{":
        raise BadInput(f"{path} is not a safetensors file, or only part of one")
    if length > LARGEST_HEADER:
        raise BadInput(f"{path} has a header of {length} bytes, more than any adapter needs")
    text = start + file.read(length - 1)
    try:
        entries = json.loads(text[8:], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} is damaged: its header is not JSON as safetensors has it"
        ) from error
    metadata = entries.pop("__metadata__", {})
    if len(entries) > MOST_TENSORS:
        raise BadInput(f"{path} holds {len(entries)} tensors, more than any adapter has")
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadInput(f"{path} is damaged: its metadata is not text")
    spans = {key: _span(entry, key, path) for key, entry in entries.items()}
    at = 0
    for first, last in sorted(spans.values()):
        if first != at:
            raise BadInput(f"{path} is damaged: its tensors overlap or leave gaps")
        at = last
    if at != size - 8 - length:
        raise BadInput(f"{path} is damaged: {size} bytes are not what its header promises")
    return Header(
        shapes={key: tuple(entry["shape"]) for key, entry in entries.items()},
        dtypes={key: entry["dtype"] for key, entry in entries.items()},
        spans={key: (len(text) + first, len(text) + last) for key, (first, last) in spans.items()},
        metadata=metadata,
        text=text,
        bytes=size,
    )


def _refuse_pickle(path: Path, start: bytes) -> None:
    """A safetensors file may start with any byte, but its ninth is always a brace."""
    pickled = start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{")
    if pickled or path.suffix.lower() in PICKLES:
        raise BadInput(
            f"{path} is a pickle, which can run code when it is opened; convert it once with "
            f'python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path.name}', weights_only=True), "
            f"'{path.stem}.safetensors')\""
        )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _span(entry: object, key: str, path: Path) -> tuple[int, int]:
    """Where a tensor's bytes lie, checked against its shape."""
    match entry:
        case {"dtype": str(name), "shape": list(shape), "data_offsets": [int(first), int(last)]}:
            if name not in SIZES:
                raise BadInput(f"{path} holds {key} as {name}, which is not read here")
            sides = all(type(side) is int and 0 <= side < 2**40 for side in shape)
            size = math.prod(shape) * SIZES[name] if sides and len(shape) <= 8 else -1
            if first >= 0 and last - first == size:
                return first, last
    raise BadInput(f"{path} is damaged: its header does not describe {key}")
