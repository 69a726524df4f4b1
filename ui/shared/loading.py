"""Opening bases, and the options for it that all commands share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import compose
from studio.requests.validation import option

if TYPE_CHECKING:
    from studio.bases.base import Base


@dataclass(frozen=True)
class Loading:
    """The options of studio.load_base, by the same names."""

    device: str = option("auto", "where to compute; auto takes a GPU if there is one")
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "auto", "number format of the weights; auto is fp16 on a GPU, else fp32"
    )
    quantize: Literal["none", "fp8", "nf4"] = option(
        "none", "store the UNet's weights in 8 bits (fp8) or 4 (nf4): less memory, a little slower"
    )
    attention: Literal["sdpa", "xformers"] = option(
        "sdpa", "PyTorch's attention (sdpa), or xformers if it is installed"
    )
    vae_slicing: bool = option(False, "decode pictures one by one: less memory")
    vae_tiling: bool = option(False, "decode pictures in tiles: less memory")
    offload: bool = option(
        False, "keep on the GPU only the part of the model in use, for GPUs with little memory"
    )
    low_memory: bool = option(
        False, "use the least memory: offload, decode in tiles, keep no changed weights"
    )
    cuda_graphs: bool = option(
        True, "draw small pictures on a GPU with CUDA graphs, where that is faster"
    )
    vae: str = option(
        "", "VAE to use instead of the base's: a .safetensors file or diffusers folder"
    )
    prediction: Literal["auto", "epsilon", "v_prediction"] = option(
        "auto", "what a single-file base predicts, if its file does not say"
    )


def open_base(source: str, given: Mapping[str, object]) -> "Base":
    """Open a base. given: fields of Loading, by name."""
    from studio.bases.load import load_base  # PyTorch with it

    chosen = Loading(**given)  # pyright: ignore[reportArgumentType]
    return load_base(source, **asdict(chosen))


class BaseCache:
    """Keeps the base that was opened last, and its adapters.

    That base is freed before another one is opened, unless something else still refers to it. key:
    the source and options of that base; None if there is none.
    """

    def __init__(self) -> None:
        self.key: object = None
        self.base: Base | None = None
        self._adapters: compose.AdapterCache | None = None

    def open(self, source: str, given: Mapping[str, object]) -> "Base":
        """As `open_base`, but returns the last base again if the arguments are the same."""
        key = source, tuple(sorted(given.items()))
        if self.base is None or key != self.key:
            self.clear()
            self.base, self.key = open_base(source, given), key
        return self.base

    @property
    def adapters(self) -> "compose.AdapterCache":
        """The adapters of the open base."""
        assert self.base is not None, "no base is open"
        self._adapters = self._adapters or compose.AdapterCache(self.base)
        return self._adapters

    def clear(self) -> None:
        """Free the base and its adapters."""
        if self.base is not None:
            self.key = self.base = self._adapters = None
            free_unused()


def free_unused() -> None:
    """Give unused memory back, such as that of a base that is no longer referred to."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def command_options(given: Mapping[str, object]) -> str:
    """The command line options that set these fields of Loading, each followed by a space."""
    options = []
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option} " if value else f"--no-{option} ")
        else:
            options.append(f"--{option} {value} ")
    return "".join(options)
