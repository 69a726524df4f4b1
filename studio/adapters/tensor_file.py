"""Read and write the tensors of safetensors files, without the library.

The library's writer orders metadata by a hash that differs between processes, so equal adapters
would give different bytes. With its reader the file would be read a second time for the SHA-256,
and tensors would lie on a memory map, which changes when the file does.
Headers are checked in studio/adapters/safetensors_header.py.
"""

import hashlib
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from studio.adapters.component_folders import component_files
from studio.adapters.safetensors_header import Header, header_bytes, read_header
from studio.errors import BadInput
from studio.files import atomic_write, opened_file

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
AT_ONCE = 2**22  # numbers that are checked at a time; a piece is widened to float32
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_tensors(path: Path, header: Header) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file, on the CPU, and the SHA-256 of its bytes.

    For a folder, the tensors of all its components, and the SHA-256 of their SHA-256s in order.
    Raises BadInput where the file no longer has this header, or a tensor contains NaN or Inf.
    """
    if path.is_dir():
        return _read_components(path)
    with opened_file(path) as file:
        data = np.fromfile(file, np.uint8)
    if len(data) != header.bytes or data[: len(header.text)].tobytes() != header.text:
        raise BadInput(f"{path} was changed while it was read: try again")
    tensors = {
        key: _tensor(data, span, DTYPES[header.dtypes[key]]).view(header.shapes[key])
        for key, span in header.spans.items()
    }
    if not _all_finite(data, header):
        for key, tensor in tensors.items():
            if not all(map(_is_finite, tensor.flatten().split(AT_ONCE))):
                raise BadInput(f"{path} is damaged: {key} contains NaN or Inf")
    return tensors, hashlib.sha256(data.data).hexdigest()


def _read_components(folder: Path) -> tuple[dict[str, Tensor], str]:
    joined: dict[str, Tensor] = {}
    digest = hashlib.sha256()
    for component, file in component_files(folder).items():
        tensors, sha256 = read_tensors(file, read_header(file))
        joined |= {f"{component}.{key}": tensor for key, tensor in tensors.items()}
        digest.update(sha256.encode())
    return joined, digest.hexdigest()


def _tensor(data: np.ndarray, span: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The bytes of a span as a flat tensor, without a copy where they are aligned."""
    first, last = span
    if first == last:
        return torch.empty(0, dtype=dtype)
    if first % dtype.itemsize:  # not aligned; the array itself begins at a multiple of 16
        data, first, last = data[first:last].copy(), 0, last - first
    return torch.frombuffer(data, dtype=dtype, count=(last - first) // dtype.itemsize, offset=first)


def _all_finite(data: np.ndarray, header: Header) -> bool:
    """Whether all numbers are certainly finite, from sums over neighbouring tensors of one type.

    False also where a sum of large numbers overflows: the tensors are then checked one by one.
    """
    order = sorted(header.spans, key=lambda key: header.spans[key])
    for name, keys in groupby(order, key=lambda key: header.dtypes[key]):
        spans = [header.spans[key] for key in keys]
        run = _tensor(data, (spans[0][0], spans[-1][1]), DTYPES[name])
        if run.is_floating_point() and not all(map(_has_finite_sum, run.split(AT_ONCE))):
            return False
    return True


def _has_finite_sum(numbers: Tensor) -> bool:
    return bool(_wide(numbers).sum().isfinite())


def _is_finite(numbers: Tensor) -> bool:
    return bool(_wide(numbers).isfinite().all())


def _wide(numbers: Tensor) -> Tensor:
    """The numbers in float32 or wider: PyTorch cannot compute in float8."""
    return numbers.float() if numbers.element_size() < 4 else numbers


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; equal contents give equal bytes.

    Raises BadInput where it cannot be written.
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
    with atomic_write(path) as file:
        file.write(header_bytes(entries))
        for key in order:
            file.write(tensor_bytes(tensors[key]))


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's numbers as the bytes of a file."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
