"""Devices and precisions by name, and a GPU's free memory."""

import torch

from studio.errors import BadInput

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def parse_device(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is the GPU where there is one. BadInput for a missing one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"There is no device {device!r}: give auto, cpu or cuda.") from error
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"PyTorch sees no GPU {str(device)!r} here: use --device cpu.")
    return parsed


def parse_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of this name; "auto" is fp16 on a GPU, else fp32. BadInput for other names."""
    if isinstance(dtype, torch.dtype) and dtype in PRECISIONS.values():
        return dtype
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in PRECISIONS:
        raise BadInput(
            f"There is no precision {str(dtype)!r}: choose auto, {', '.join(PRECISIONS)}."
        )
    return PRECISIONS[str(dtype)]


def has_own_memory(device: torch.device) -> bool:
    """Whether the device has memory of its own, so that moving tensors to the CPU frees some."""
    return device.type == "cuda"


def free_on_gpu(device: torch.device) -> int:
    """Bytes that PyTorch may still use on a GPU: free memory, and what it has reserved but unused.

    A limit set with `torch.cuda.set_per_process_memory_fraction` counts.
    """
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.memory_allocated(device)
    cap = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free + torch.cuda.memory_reserved(device) - used, cap - used)


def release_unused(device: torch.device) -> None:
    """Return GPU memory that PyTorch has reserved but does not use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
