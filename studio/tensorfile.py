"""Safetensors files, read with suspicion and written atomically with the same bytes every time.

The container: eight bytes little-endian N, N bytes of JSON, the tensors' bytes without gaps.
The library's own writer orders metadata by a hash that differs between processes, and its reader
leaves it to the caller how much it will believe; hence this file.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from studio.errors import BadInput

__all__ = ["Header", "read_header", "read_tensors", "replacing", "write_tensors"]

LARGEST_HEADER = 32 * 2**20  # bytes; tag counts of large data sets take a few million
MOST_TENSORS = 100_000
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}


@dataclass(frozen=True)
class Header:
    """What a file says of itself. bytes: of the whole file."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    metadata: dict[str, str]
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


def read_tensors(path: Path) -> tuple[Header, dict[str, Tensor], str]:
    """Read the whole file: header, tensors on the CPU, and the SHA-256 of its bytes.

    Raises BadInput as `read_header`, and where a tensor holds NaN or infinity.
    """
    header = read_header(path)
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise BadInput(f"{path} is damaged: {error}") from error
    for key, tensor in tensors.items():
        # Eight-bit floats have no isfinite.
        wide = tensor.float() if tensor.element_size() == 1 else tensor
        if not torch.isfinite(wide).all():
            raise BadInput(f"{path} is damaged: {key} holds numbers that are not finite")
    return header, tensors, hashlib.sha256(data).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: whole or not at all, and equal contents give equal bytes.

    Raises BadInput where the place cannot be written or is full.
    """
    # Wide numbers first, so that each tensor lies on a multiple of its own width.
    order = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for key in order:
        tensor = tensors[key]
        end = start + tensor.numel() * tensor.element_size()
        entries[key] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for key in order:
            file.write(tensor_bytes(tensors[key]))


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's numbers as they stand in a file."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well.

    It is written beside it, so that a reader never sees half a file and a full disk leaves the
    old one. Raises BadInput where it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}") from error


def _header(file: BinaryIO, path: Path) -> Header:
    size = os.fstat(file.fileno()).st_size
    start = file.read(9)
    _refuse_pickle(path, start)
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
    if not 2 <= length <= size - 8 or start[8:] != b"{":
        raise BadInput(f"{path} is not a safetensors file, or only part of one")
    if length > LARGEST_HEADER:
        raise BadInput(f"{path} has a header of {length} bytes, more than any adapter needs")
    try:
        entries = json.loads(b"{" + file.read(length - 1), object_pairs_hook=_unique)
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
        dtypes={key: DTYPES[entry["dtype"]] for key, entry in entries.items()},
        metadata=metadata,
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
            if name not in DTYPES:
                raise BadInput(f"{path} holds {key} as {name}, which is not read here")
            sides = all(type(side) is int and 0 <= side < 2**40 for side in shape)
            size = math.prod(shape) * DTYPES[name].itemsize if sides and len(shape) <= 8 else -1
            if first >= 0 and last - first == size:
                return first, last
    raise BadInput(f"{path} is damaged: its header does not describe {key}")
