"""The tensors of safetensors files, checked when read and written with the same bytes every time.

The library's own writer orders metadata by a hash that differs between processes; hence this file.
What a file says it holds is studio/header.py's affair.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from studio.errors import BadInput
from studio.files import replacing
from studio.header import header_bytes

__all__ = ["read_tensors", "write_tensors"]

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


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The file's tensors, on the CPU, and the SHA-256 of its bytes.

    Raises BadInput where it is no safetensors file, or a tensor holds NaN or infinity.
    """
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise BadInput(f"{path} is damaged: {error}") from error
    numbers = {key: one for key, one in tensors.items() if one.is_floating_point() and one.numel()}
    # Eight-bit floats have neither norms nor isfinite.
    wide = [one.float() if one.element_size() == 1 else one for one in numbers.values()]
    # One call tells of many hundred tensors that they are; large numbers may overflow in it.
    if wide and not torch.nn.utils.get_total_norm(wide).isfinite():
        for key, one in zip(numbers, wide, strict=True):
            if not one.isfinite().all():
                raise BadInput(f"{path} is damaged: {key} holds numbers that are not finite")
    return tensors, hashlib.sha256(data).hexdigest()


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
    with replacing(path) as file:
        file.write(header_bytes(entries))
        for key in order:
            file.write(tensor_bytes(tensors[key]))


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's numbers as they stand in a file."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
