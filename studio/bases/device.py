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
