"""The names of devices and precisions."""

import torch

from studio.errors import BadInput

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def parse_device(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is the GPU, where there is one. BadInput for another."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"There is no device {device!r}: give auto, cpu or cuda.") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"PyTorch sees no GPU {str(device)!r} here: use --device cpu.")
    return found


def parse_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of this name; "auto" is fp16 on a GPU, else fp32. BadInput for another."""
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
    """Whether what leaves the device for the CPU makes room there."""
    return device.type == "cuda"


def free_on_gpu(device: torch.device) -> int:
    """Bytes that PyTorch may still take on a GPU, with what it holds unused.

    It minds a cap that was set with `torch.cuda.set_per_process_memory_fraction`.
    """
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.memory_allocated(device)
    cap = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free + torch.cuda.memory_reserved(device) - used, cap - used)


def release_unused(device: torch.device) -> None:
    """Give back what PyTorch holds of a GPU's memory and does not use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
