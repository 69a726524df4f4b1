"""How to open a base: the options of every command that needs one."""

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
        False, "keep on the GPU only what is at work, for GPUs with little memory"
    )
    low_memory: bool = option(
        False, "take the least memory: offload, tiles, and no changed weights kept"
    )
    cuda_graphs: bool = option(
        True, "draw small pictures on a GPU by CUDA graphs, where that is faster"
    )
    vae: str = option("", "another VAE than the base's: a .safetensors file or a diffusers folder")
    prediction: Literal["auto", "epsilon", "v_prediction"] = option(
        "auto", "what a single-file base predicts, if its file does not say"
    )


def open_base(source: str, given: Mapping[str, object]) -> "Base":
    """Open a base. given: fields of Loading, by name."""
    from studio.bases.load import load_base  # PyTorch with it

    chosen = Loading(**given)  # pyright: ignore[reportArgumentType]
    return load_base(source, **asdict(chosen))


class BaseCache:
    """Keeps the base that was opened last, with the adapters that were loaded for it.

    It is freed before another one is opened, unless somebody else still holds it. key: of what is
    kept; None for nothing.
    """

    def __init__(self) -> None:
        self.key: object = None
        self.base: Base | None = None
        self._adapters: compose.AdapterCache | None = None

    def open(self, source: str, given: Mapping[str, object]) -> "Base":
        """As `open_base`; the same base as before where the arguments are the same."""
        key = source, tuple(sorted(given.items()))
        if self.base is None or key != self.key:
            self.clear()
            self.base, self.key = open_base(source, given), key
        return self.base

    @property
    def adapters(self) -> "compose.AdapterCache":
        """The adapters of the base that is open."""
        assert self.base is not None, "no base is open"
        self._adapters = self._adapters or compose.AdapterCache(self.base)
        return self._adapters

    def clear(self) -> None:
        """Let go of the base, and give its memory back."""
        if self.base is not None:
            self.key = self.base = self._adapters = None
            free_unused()


def free_unused() -> None:
    """Give memory back that nothing needs, such as that of a base that was let go."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def command_options(given: Mapping[str, object]) -> str:
    """The options that set these fields, each followed by a space."""
    options = []
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option} " if value else f"--no-{option} ")
        else:
            options.append(f"--{option} {value} ")
    return "".join(options)
