"""Open a base by its name, folder, file or Hugging Face id."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from studio.adapters.token_embeddings import embedding_table
from studio.bases.base import Base, Parts
from studio.bases.device import has_own_memory, parse_device, parse_dtype, release_unused
from studio.bases.names import BUNDLED_BASES
from studio.bases.opening.diffusers_folder import open_folder
from studio.bases.opening.single_file import open_single_file
from studio.bases.quantized.layers import check_form
from studio.bases.resolve import find_source
from studio.bases.schedulers import PREDICTION_TYPES, check_scheduler_config, new_scheduler
from studio.bases.vae_tiles import use_tiles
from studio.errors import BadInput, reason_of
from studio.files import display_name, expand_home
from studio.out_of_memory import is_out_of_memory

LOG = logging.getLogger(__name__)

# What safetensors, diffusers and transformers raise for files that are damaged or do not fit.
OPENING_ERRORS = (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
OPENING_ERRORS += (SafetensorError, SingleFileComponentError, StrictDataclassError)


def load_base(
    source: str | Path = "sketch",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    quantize: str = "none",
    attention: str = "sdpa",
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    offload: bool = False,
    low_memory: bool = False,
    cuda_graphs: bool = True,
    prediction: str = "auto",
    vae: str | Path | None = None,
) -> Base:
    """Open a base of the SD 1.x, SD 2.x or SDXL family, frozen.

    source: "sketch", "sketch-sd1", a folder in the diffusers layout, a .safetensors checkpoint in
        the original layout, or a Hugging Face id, downloaded only where it is not in the cache.
    device: "auto" is the GPU, where there is one.
    dtype: "fp32", "fp16" or "bf16"; "auto" is fp16 on a GPU and fp32 elsewhere. In fp16 a VAE
        whose configuration asks for it (`force_upcast`, SDXL's does) stays in fp32.
    quantize: "fp8" or "nf4" stores the weights of the UNet's blocks in 8 or 4 bits, rounded, and
        computes in `dtype`. Less memory, a little slower. NF4 needs bitsandbytes.
    attention: "sdpa" (PyTorch's own) or "xformers".
    vae_slicing, vae_tiling: decode picture by picture, or in tiles: slower, in less memory.
    offload: keep only the part in use on the GPU; for small GPUs. A GPU that can't hold all parts
        does so anyway.
    low_memory: everything that takes less memory: offload, decoding picture by picture and in tiles
        of 512 pixels, and keeping no changed weights of a mix.
    cuda_graphs: compute small pictures on a GPU as CUDA graphs, where that is faster.
    prediction: "epsilon" or "v_prediction", for single files that do not say what they predict.
    vae: a VAE to replace the base's own: a .safetensors file, or a diffusers folder.

    Raises BadInput where any of this is not possible; where it can, before weights are read.
    """
    target = parse_device(device)
    precision = parse_dtype(dtype, target)
    check_form(quantize)
    _check_choices(target, attention=attention, offload=offload, prediction=prediction)
    path = find_source(source, half=precision != torch.float32)
    other_vae = expand_home(vae).resolve() if vae else None
    parts = _open_parts(path, precision, prediction, other_vae)
    _spare_vae(parts.vae, slicing=vae_slicing or low_memory, tiling=vae_tiling, small=low_memory)
    _use_attention(parts, attention)
    base = Base(
        **vars(parts),
        source=_absolute_source(source, path),
        name=_name(source, path),
        device=target,
        dtype=precision,
        quantize=quantize,
        offload=offload or (low_memory and has_own_memory(target)),
        low_memory=low_memory,
        cuda_graphs=cuda_graphs,
        vae_source=str(other_vae or ""),
    )
    _store_and_place(base)
    return base


def _use_attention(parts: Parts, attention: str) -> None:
    if attention == "xformers":
        parts.unet.enable_xformers_memory_efficient_attention()
        parts.vae.enable_xformers_memory_efficient_attention()


def _store_and_place(base: Base) -> None:
    """Quantize the base's weights if asked, and move its parts to the device if they fit."""
    if base.quantize != "none":
        base.fingerprint()  # while the weights are not rounded yet
        base.store_quantized()
    base.offload = base.offload or not _fits_on(base.device, base)


def _spare_vae(vae: AutoencoderKL, *, slicing: bool, tiling: bool, small: bool) -> None:
    """Let the VAE work picture by picture, or in tiles. small: in smaller tiles than usual."""
    if slicing:
        vae.enable_slicing()
    if tiling:
        vae.enable_tiling()
    if small:
        use_tiles(vae)


def _fits_on(device: torch.device, parts: Parts) -> bool:
    """Move all parts to the device; where they don't fit, move them back and return False."""
    try:
        for part in parts.modules():
            part.to(device)
    except (MemoryError, RuntimeError) as error:
        if not (has_own_memory(device) and is_out_of_memory(error)):
            raise
    else:
        return True
    LOG.warning("The GPU can't hold the whole base: only the part at work is on it (offload).")
    for part in parts.modules():
        part.to("cpu")
    release_unused(device)
    return False


def _open_parts(path: Path, dtype: torch.dtype, prediction: str, vae: Path | None) -> Parts:
    """The parts of a base, frozen, from a folder or a file."""
    open_parts = open_folder if path.is_dir() else open_single_file
    try:
        with _quiet_libraries():
            parts = open_parts(path, dtype, prediction=prediction, vae=vae)
            check_scheduler_config(parts.scheduler_config, str(path))
            new_scheduler(parts.scheduler_config, None)
    except BadInput:
        raise
    except OPENING_ERRORS as error:
        raise BadInput(f"The base {path} could not be opened: {reason_of(error)}") from error
    _freeze_and_check(parts, str(path))
    return parts


def _absolute_source(source: str | Path, path: Path) -> str:
    """A source that opens the same base from any working directory."""
    local = str(source) not in BUNDLED_BASES and expand_home(source).exists()
    return str(path.resolve()) if local else str(source)


def _name(source: str | Path, path: Path) -> str:
    """A base's name: that of its folder or file, or the id by which it was downloaded."""
    local = expand_home(source).exists()
    return display_name(path.resolve()) if local else str(source)


def _check_choices(device: torch.device, *, attention: str, offload: bool, prediction: str) -> None:
    if offload and not has_own_memory(device):
        raise BadInput(
            "offload moves parts between the CPU and a GPU, but the device is "
            f"{device.type}: leave it out."
        )
    if prediction not in ("auto", *PREDICTION_TYPES):
        choices = " or ".join(PREDICTION_TYPES)
        raise BadInput(f"prediction is {prediction!r}: choose auto, {choices}.")
    if attention not in ("sdpa", "xformers"):
        raise BadInput(f"There is no attention {attention!r}: choose sdpa or xformers.")
    if attention == "xformers" and find_spec("xformers") is None:
        raise BadInput(
            "attention is xformers but that is not installed: run `pip install xformers`, or "
            "leave it at sdpa."
        )
    if attention == "xformers" and device.type != "cuda":
        raise BadInput("xformers attention needs an NVIDIA GPU: leave it at sdpa.")


def _freeze_and_check(parts: Parts, where: str) -> None:
    """Freeze every weight. Raise BadInput where the files lack a weight or a needed number."""
    numbers = [(parts.unet, "sample_size"), (parts.vae, "scaling_factor")]
    for encoder in parts.text_encoders:
        numbers += [(encoder, "eos_token_id"), (encoder, "layer_norm_eps")]
    for part, name in numbers:
        if not isinstance(value := getattr(part.config, name), int | float):
            raise BadInput(
                f"{where}: the {name} of its {type(part).__name__} is {value!r}, which is no "
                "number: correct its config.json."
            )
    for module in parts.modules():
        module.requires_grad_(False).eval()
        for name, weight in module.named_parameters():
            if weight.is_meta:
                raise BadInput(
                    f"{where} lacks {name} of its {type(module).__name__}: the file is not whole."
                )
    for tokenizer, encoder in zip(parts.tokenizers, parts.text_encoders, strict=True):
        # transformers gives 1e30 to a tokenizer whose configuration names no length.
        places = encoder.config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, places)
        rows = embedding_table(encoder).num_embeddings
        if len(tokenizer) > rows:
            raise BadInput(
                f"{where}: the tokenizer knows {len(tokenizer)} tokens but the text encoder "
                f"{rows}: they do not belong together."
            )


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence transformers' progress bars, and diffusers' warning about an empty list."""
    shown = transformers_logging.is_progress_bar_enabled()
    level = diffusers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
