"""The passes of a training through the base, counted without computing them.

The base's modules are rebuilt of PyTorch's fake tensors, which have shapes and no numbers, the
deltas are attached as for a training, and a batch goes through. What autograd saves for the
backward pass is then known to the byte, and so are the floating point operations, whatever the
kind, the base and the options. The backward pass repeats a product for each of its factors that has
a gradient.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from studio.adapters.delta import Sparse, attach
from studio.adapters.token_embeddings import embedding_table
from studio.bases.base import Base
from studio.bases.prompts import TextEmbedding

if TYPE_CHECKING:
    from studio.adapters.delta import Delta
    from studio.requests.recipe import Recipe

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
ATTENTION_BACKWARD = 2.5  # of its forward products: one of the two is computed again
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class PassCost:
    """What one pass takes.

    forward, backward: floating point operations. base_forward: those of the base's own layers.
    calls: operations on tensors in the forward pass. written: bytes of the tensors that they make.
    saved: bytes that autograd keeps for the backward pass.
    """

    forward: float
    base_forward: float
    calls: int
    written: int
    backward: float = 0.0
    saved: int = 0


def training_cost(base: Base, deltas: "Mapping[str, Delta]", recipe: "Recipe") -> PassCost:
    """A batch through the UNet, and through the text encoders where they or new tokens learn.

    deltas: by layer, as they are attached to the base; on any device.
    """
    trains_text = recipe.new_tokens > 0 or any(not name.startswith("unet.") for name in deltas)
    precision = base.precision if recipe.precision == "auto" else recipe.precision
    fake = FakeTensorMode()
    model = _fake_base(base, fake)
    fakes = {name: _to_fake(delta, fake) for name, delta in deltas.items()}
    saved, counter = _SavedTensors(model, fakes), _OperationCounter(model.layers(), fakes)
    if recipe.new_tokens:
        for encoder in model.text_encoders:
            embedding_table(encoder).weight.requires_grad_(True)
    if recipe.checkpointing:
        model.unet.enable_gradient_checkpointing(saved.checkpoint)
    autocast = nullcontext()
    if precision in AUTOCAST:
        autocast = torch.autocast("cpu", dtype=AUTOCAST[precision])
    with attach(model.layers(), fakes), fake, autocast, saved.recorded(), counter:
        text = _run_text_encoders(model, recipe.batch) if trains_text else None
        _run_unet(model, recipe.size or base.size, recipe.batch, text)
    cost = replace(counter.cost(), backward=counter.backward(), saved=saved.bytes())
    if not recipe.checkpointing:
        return cost
    # The forward pass runs once more, without a backward pass and an optimizer of its own.
    calls, written = cost.calls * 4 // 3, cost.written * 4 // 3
    return replace(cost, backward=cost.backward + cost.forward, calls=calls, written=written)


def encoding_cost(base: Base, *, side: int) -> PassCost:
    """A square picture through the VAE's encoder."""
    return _vae_cost(base, "encode", (3, side, side))


def decoding_cost(base: Base, *, side: int) -> PassCost:
    """The latents of a square picture through the VAE's decoder."""
    small = side // base.latent_factor
    return _vae_cost(base, "decode", (4, small, small))


def _vae_cost(base: Base, method: str, shape: tuple[int, ...]) -> PassCost:
    fake = FakeTensorMode()
    vae, counter = _to_fake(_rebuild(base.vae), fake), _OperationCounter({}, {})
    with torch.no_grad(), fake, counter:
        getattr(vae, method)(torch.randn(1, *shape, dtype=base.vae.dtype))
    return counter.cost()


class _OperationCounter(TorchDispatchMode):
    """Inside the block, counts floating point operations and those of the backward pass."""

    def __init__(self, layers: Mapping[str, nn.Module], deltas: "Mapping[str, Delta]") -> None:
        super().__init__()
        self._calls, self._written, self._forward = 0, 0, 0.0
        self._attention, self._layers, self._base_backward = 0.0, 0.0, 0.0
        for name, layer in layers.items():
            # A sparse change takes the gradient of the whole weight.
            sparse = isinstance(deltas.get(name), Sparse)
            layer.register_forward_hook(partial(self._count_layer, weight_gradient=sparse))

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = called(*args, **kwargs)
        if called.namespace != "aten":
            return result
        self._calls += 1
        self._written += _new_bytes(args, result)
        flops = 0
        if "scaled_dot_product" in called.__name__:
            flops = 4 * args[0].numel() * args[1].shape[-2]
            self._attention += flops
            learns = any(one.requires_grad for one in args[:3])
            self._base_backward += ATTENTION_BACKWARD * flops * learns
        elif called.overloadpacket in flop_registry:
            flops = flop_registry[called.overloadpacket](*args, **kwargs, out_val=result)
        self._forward += flops
        return result

    def cost(self) -> PassCost:
        """The forward pass."""
        base_forward = self._layers + self._attention
        return PassCost(self._forward, base_forward, self._calls, self._written)

    def backward(self) -> float:
        """Operations of the backward pass: both factors of what deltas multiply have gradients."""
        return self._base_backward + 2 * (self._forward - self._layers - self._attention)

    def _count_layer(
        self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor, *, weight_gradient: bool
    ) -> None:
        """Count a layer's own product; the gradient of its input is another such."""
        flops = 2.0 * output.numel() * layer.weight[0].numel()  # pyright: ignore
        self._layers += flops
        self._base_backward += flops * (args[0].requires_grad + weight_gradient)


class _SavedTensors:
    """What autograd saves, without the base's and the deltas' own tensors."""

    def __init__(self, base: Base, deltas: "Mapping[str, Delta]") -> None:
        parts = (base.unet, *base.text_encoders, *deltas.values())
        self._own = {_storage(t) for part in parts for t in (*part.parameters(), *part.buffers())}
        self._all: dict[int, Tensor] = {}
        self._largest_block = 0

    def recorded(self) -> saved_tensors_hooks:
        """Inside the block, everything that autograd saves is recorded."""
        return self._record_into(self._all)

    def checkpoint(self, block: nn.Module, *args: object) -> object:
        """Stands in for gradient checkpointing: only a block's inputs stay saved."""
        self._all |= {_storage(one): one for one in args if isinstance(one, Tensor)}
        inside: dict[int, Tensor] = {}
        with self._record_into(inside):
            output = block(*args)
        self._largest_block = max(self._largest_block, _bytes(inside))
        return output

    def bytes(self) -> int:
        """The most that is saved at a time."""
        return _bytes(self._all) + self._largest_block

    def _record_into(self, saved: dict[int, Tensor]) -> saved_tensors_hooks:
        def pack(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in self._own:
                saved[_storage(tensor)] = tensor  # held, so that its address is not used again
            return tensor

        return saved_tensors_hooks(pack, lambda tensor: tensor)


def _new_bytes(args: Sequence[object], result: object) -> int:
    """Bytes of the resulting tensors that are not views of the arguments."""
    given = {_storage(one) for one in args if isinstance(one, Tensor)}
    results = result if isinstance(result, tuple | list) else (result,)
    tensors = [one for one in results if isinstance(one, Tensor)]
    return sum(one.numel() * one.itemsize for one in tensors if _storage(one) not in given)


def _caption_length(base: Base) -> int:
    """How many tokens a caption has."""
    return base.text_encoders[0].config.max_position_embeddings


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensors: Mapping[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())


def _fake_base(base: Base, fake: FakeTensorMode) -> Base:
    """The base in fake tensors, frozen and without its tokenizers."""
    return replace(
        base,
        unet=_to_fake(_rebuild(base.unet), fake),
        text_encoders=tuple(_to_fake(_rebuild(encoder), fake) for encoder in base.text_encoders),
        tokenizers=(),
        device=torch.device("cpu"),
        offload=False,
    )


def _rebuild(module: Module) -> Module:
    """A module like this one, in its precision, without storage."""
    build = getattr(type(module), "from_config", None) or type(module)._from_config  # pyright: ignore
    with torch.device("meta"):
        rebuilt = build(module.config)
    return nn.Module.to(rebuilt, module.dtype).requires_grad_(False)  # pyright: ignore


def _to_fake(module: Module, fake: FakeTensorMode) -> Module:
    """A copy of the module in fake tensors that claim to be on the CPU."""
    tensors: dict[int, object] = {}
    for own in (*module.parameters(), *module.buffers()):
        tensor = FakeTensor(fake, torch.empty_like(own, device="meta"), torch.device("cpu"))
        is_parameter = isinstance(own, nn.Parameter)
        tensors[id(own)] = nn.Parameter(tensor, own.requires_grad) if is_parameter else tensor
    return copy.deepcopy(module, tensors)


def _run_text_encoders(base: Base, rows: int) -> TextEmbedding:
    """Captions through the text encoders, as `Base.encode_text` takes them."""
    hidden, pooled = [], None
    for encoder in base.text_encoders:
        sdxl = base.family == "sdxl"
        tokens = torch.zeros(rows, _caption_length(base), dtype=torch.long)
        output = encoder(tokens, output_hidden_states=sdxl)
        hidden.append(output.hidden_states[-2] if sdxl else output.last_hidden_state)
        pooled = output.text_embeds if sdxl and hasattr(output, "text_embeds") else None
    return TextEmbedding(torch.cat(hidden, dim=-1), pooled)


def _run_unet(base: Base, side: int, rows: int, text: TextEmbedding | None) -> None:
    """Latents of so many square pictures through the UNet."""
    config, small = base.unet.config, side // base.latent_factor
    if text is None:
        shape = rows, _caption_length(base), config["cross_attention_dim"]
        hidden, pooled = torch.randn(*shape, dtype=base.dtype), None
        if base.family == "sdxl":
            width = config["projection_class_embeddings_input_dim"]
            width -= 6 * config["addition_time_embed_dim"]
            pooled = torch.randn(rows, width, dtype=base.dtype)
        text = TextEmbedding(hidden, pooled)
    base.predict(
        torch.randn(rows, 4, small, small),
        torch.zeros(rows, dtype=torch.long),
        text,
        time_ids=torch.zeros(rows, 6),
    )
