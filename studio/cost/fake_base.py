"""A base of PyTorch's fake tensors, which have shapes but no numbers, to count its operations.

Nothing is computed and no weight is copied, so the passes of a base of gigabytes take a second.
"""

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from studio.bases.base import Base
from studio.bases.prompts import TextEmbedding

Module = TypeVar("Module", bound=nn.Module)


def fake_base(base: Base, fake: FakeTensorMode) -> Base:
    """The base with fake tensors, frozen and without its tokenizers."""
    unet = rebuild(base.unet)
    replace(base, unet=unet, text_encoders=(), device=torch.device("meta")).store_quantized()
    return replace(
        base,
        unet=to_fake(unet, fake),
        text_encoders=tuple(to_fake(rebuild(encoder), fake) for encoder in base.text_encoders),
        tokenizers=(),
        device=torch.device("cpu"),
        offload=False,
    )


def rebuild(module: Module) -> Module:
    """A module with the same configuration and precision on the meta device, frozen."""
    build = getattr(type(module), "from_config", None) or type(module)._from_config  # pyright: ignore
    with torch.device("meta"):
        rebuilt = build(module.config)
    return nn.Module.to(rebuilt, module.dtype).requires_grad_(False)  # pyright: ignore


def to_fake(module: Module, fake: FakeTensorMode) -> Module:
    """A copy of the module with fake tensors, which appear to be on the CPU."""
    tensors: dict[int, object] = {}
    for own in (*module.parameters(), *module.buffers()):
        tensor = FakeTensor(fake, torch.empty_like(own, device="meta"), torch.device("cpu"))
        is_parameter = isinstance(own, nn.Parameter)
        tensors[id(own)] = nn.Parameter(tensor, own.requires_grad) if is_parameter else tensor
    return copy.deepcopy(module, tensors)


def _caption_length(base: Base) -> int:
    """How many tokens an encoded caption has, padding included."""
    return base.text_encoders[0].config.max_position_embeddings


def run_text_encoders(base: Base, rows: int) -> TextEmbedding:
    """Pass captions through the text encoders, as `Base.encode_text` does. rows: how many."""
    hidden, pooled = [], None
    for encoder in base.text_encoders:
        sdxl = base.family == "sdxl"
        tokens = torch.zeros(rows, _caption_length(base), dtype=torch.long)
        output = encoder(tokens, output_hidden_states=sdxl)
        hidden.append(output.hidden_states[-2] if sdxl else output.last_hidden_state)
        pooled = output.text_embeds if sdxl and hasattr(output, "text_embeds") else None
    return TextEmbedding(torch.cat(hidden, dim=-1), pooled)


def run_unet(
    base: Base, size: tuple[int, int], rows: int, text: TextEmbedding | None = None
) -> None:
    """Pass the latents of pictures through the UNet.

    size: height and width in pixels. rows: how many pictures. text: default: random embeddings.
    """
    config, factor = base.unet.config, base.latent_factor
    if text is None:
        shape = rows, _caption_length(base), config["cross_attention_dim"]
        hidden, pooled = torch.randn(*shape, dtype=base.dtype), None
        if base.family == "sdxl":
            width = config["projection_class_embeddings_input_dim"]
            width -= 6 * config["addition_time_embed_dim"]
            pooled = torch.randn(rows, width, dtype=base.dtype)
        text = TextEmbedding(hidden, pooled)
    base.predict(
        torch.randn(rows, 4, size[0] // factor, size[1] // factor),
        torch.zeros(rows, dtype=torch.long),
        text,
        time_ids=torch.zeros(rows, 6),
    )
