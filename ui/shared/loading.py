"""How a base is opened, as options of every command that opens one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from studio.bases.base import Base

__all__ = ["Loading", "flags", "open_base"]


@dataclass(frozen=True)
class Loading:
    """The options of studio.load_base."""

    device: str = field(default="auto", metadata={"help": "auto takes the GPU where there is one"})
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = field(
        default="auto", metadata={"help": "auto is fp16 on a GPU, fp32 elsewhere"}
    )
    attention: Literal["sdpa", "xformers"] = field(
        default="sdpa", metadata={"help": "PyTorch's own attention, or xformers where installed"}
    )
    vae_slicing: bool = field(
        default=False, metadata={"help": "decode pictures one by one, in less memory"}
    )
    vae_tiling: bool = field(default=False, metadata={"help": "decode in tiles, in less memory"})
    offload: bool = field(
        default=False, metadata={"help": "keep on the GPU only the part at work; for small GPUs"}
    )
    prediction: Literal["auto", "epsilon", "v_prediction"] = field(
        default="auto", metadata={"help": "what a single-file base predicts, if it does not say"}
    )


def open_base(source: str, given: Mapping[str, object]) -> "Base":
    """Open a base. given: fields of Loading, by name."""
    from studio.bases.base import load_base  # PyTorch with it

    chosen = Loading(**given)  # pyright: ignore[reportArgumentType]
    return load_base(
        source,
        device=chosen.device,
        dtype=chosen.dtype,
        attention=chosen.attention,
        vae_slicing=chosen.vae_slicing,
        vae_tiling=chosen.vae_tiling,
        offload=chosen.offload,
        prediction=chosen.prediction,
    )


def flags(given: Mapping[str, object]) -> str:
    """The options that give these fields again, each with a space behind it."""
    words = []
    for name, value in given.items():
        option = name.replace("_", "-")
        words.append(
            f"--{option} {value} "
            if not isinstance(value, bool)
            else f"--{option} "
            if value
            else f"--no-{option} "
        )
    return "".join(words)
