"""The passes of a training through the base, counted without being made.

The base's modules are built again of PyTorch's fake tensors, which have shapes and no numbers, the
deltas are put beside them as for a training, and a batch goes through: what autograd keeps for the
way back is then known to the byte, and so is how much is multiplied, whatever the kind, the base
and the options. On the way back a product is made again for each of its factors that has a
gradient.
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

__all__ = ["Pass", "decoded", "encoded", "trained"]

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
ATTENTION_BACK = 2.5  # of its products there: one of the two is made anew
Made = TypeVar("Made", bound=nn.Module)


@dataclass(frozen=True)
class Pass:
    """What goes on in one pass.

    there, back: floating point operations on either way. plain: those there that are the base's
    own. calls: operations on tensors on the way there. moved: bytes of the tensors that they make.
    kept: bytes that autograd keeps for the way back.
    """

    there: float
    plain: float
    calls: int
    moved: int
    back: float = 0.0
    kept: int = 0


def trained(base: Base, deltas: "Mapping[str, Delta]", recipe: "Recipe") -> Pass:
    """A batch through the UNet, and through the text encoders where they or new words learn.

    deltas: by layer, as they are attached to the base; on any device.
    """
    reads = recipe.new_tokens > 0 or any(not name.startswith("unet.") for name in deltas)
    precision = base.precision if recipe.precision == "auto" else recipe.precision
    fake = FakeTensorMode()
    outline = _outline(base, fake)
    copied = {name: _faked(delta, fake) for name, delta in deltas.items()}
    kept, work = _Kept(outline, copied), _Work(outline.layers(), copied)
    if recipe.new_tokens:
        for encoder in outline.text_encoders:
            embedding_table(encoder).weight.requires_grad_(True)
    if recipe.checkpointing:
        outline.unet.enable_gradient_checkpointing(kept.by_itself)
    autocast = nullcontext()
    if precision in AUTOCAST:
        autocast = torch.autocast("cpu", dtype=AUTOCAST[precision])
    with attach(outline.layers(), copied), fake, autocast, kept.noted(), work:
        text = _read(outline, recipe.batch) if reads else None
        _predict(outline, recipe.size or base.size, recipe.batch, text)
    found = Pass(work.there, work.plain(), work.calls, work.moved, work.back(), kept.bytes())
    if not recipe.checkpointing:
        return found
    # Made once more, to which a call's way back and the optimiser do not belong.
    calls, moved = found.calls * 4 // 3, found.moved * 4 // 3
    return replace(found, back=found.back + found.there, calls=calls, moved=moved)


def encoded(base: Base, *, side: int) -> Pass:
    """A square picture through the VAE."""
    return _coded(base, "encode", (3, side, side))


def decoded(base: Base, *, side: int) -> Pass:
    """The latents of a square picture through the VAE."""
    small = side // base.latent_factor
    return _coded(base, "decode", (4, small, small))


def _coded(base: Base, way: str, shape: tuple[int, ...]) -> Pass:
    fake = FakeTensorMode()
    vae, work = _faked(_built(base.vae), fake), _Work({}, {})
    with torch.no_grad(), fake, work:
        getattr(vae, way)(torch.randn(1, *shape, dtype=base.vae.dtype))
    return Pass(work.there, work.there, work.calls, work.moved)


class _Work(TorchDispatchMode):
    """Inside, counts what is multiplied, and which of it the way back multiplies again."""

    def __init__(self, layers: Mapping[str, nn.Module], deltas: "Mapping[str, Delta]") -> None:
        super().__init__()
        self.calls, self.moved, self.there = 0, 0, 0.0
        self._attended, self._layers, self._plain_back = 0.0, 0.0, 0.0
        for name, layer in layers.items():
            # A sparse change takes the gradient of the whole weight.
            whole = isinstance(deltas.get(name), Sparse)
            layer.register_forward_hook(partial(self._through, whole=whole))

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        given = kwargs or {}
        made = called(*args, **given)
        if called.namespace != "aten":
            return made
        self.calls += 1
        self.moved += _fresh(args, made)
        if "scaled_dot_product" in called.__name__:
            flops = 4 * args[0].numel() * args[1].shape[-2]
            self._attended += flops
            learning = any(one.requires_grad for one in args[:3])
            self._plain_back += ATTENTION_BACK * flops * learning
        elif called.overloadpacket in flop_registry:
            flops = flop_registry[called.overloadpacket](*args, **given, out_val=made)
        else:
            flops = 0
        self.there += flops
        return made

    def plain(self) -> float:
        """Operations of the base's own layers and attention."""
        return self._layers + self._attended

    def back(self) -> float:
        """Operations of the way back: both factors of what deltas multiply have gradients."""
        beside = self.there - self.plain()
        return self._plain_back + 2 * beside

    def _through(
        self, layer: nn.Module, given: tuple[Tensor, ...], made: Tensor, *, whole: bool
    ) -> None:
        """Count a layer's own product; the gradient of its input is another such."""
        flops = 2.0 * made.numel() * layer.weight[0].numel()  # pyright: ignore
        self._layers += flops
        self._plain_back += flops * (given[0].requires_grad + whole)


class _Kept:
    """What autograd keeps, but for what is there anyway: the base's and the deltas' own."""

    def __init__(self, base: Base, deltas: "Mapping[str, Delta]") -> None:
        parts = (base.unet, *base.text_encoders, *deltas.values())
        self._own = {_storage(t) for part in parts for t in (*part.parameters(), *part.buffers())}
        self._all: dict[int, Tensor] = {}
        self._most = 0

    def noted(self) -> saved_tensors_hooks:
        """Inside, everything that is kept is noted."""
        return self._into(self._all)

    def by_itself(self, part: nn.Module, *given: object) -> object:
        """Stands in for a checkpoint: only what goes in stays, the rest is made when it is due."""
        self._all |= {_storage(one): one for one in given if isinstance(one, Tensor)}
        inside: dict[int, Tensor] = {}
        with self._into(inside):
            made = part(*given)
        self._most = max(self._most, _bytes(inside))
        return made

    def bytes(self) -> int:
        """The most that is kept at a time."""
        return _bytes(self._all) + self._most

    def _into(self, kept: dict[int, Tensor]) -> saved_tensors_hooks:
        def note(one: Tensor) -> Tensor:
            if _storage(one) not in self._own:
                kept[_storage(one)] = one  # held, so that its place is not another's
            return one

        return saved_tensors_hooks(note, lambda one: one)


def _fresh(given: Sequence[object], made: object) -> int:
    """Bytes of the tensors made, but for views of those given."""
    there = {_storage(one) for one in given if isinstance(one, Tensor)}
    several = made if isinstance(made, tuple | list) else (made,)
    tensors = [one for one in several if isinstance(one, Tensor)]
    return sum(one.numel() * one.itemsize for one in tensors if _storage(one) not in there)


def _places(base: Base) -> int:
    """How many tokens a caption has."""
    return base.text_encoders[0].config.max_position_embeddings


def _storage(one: Tensor) -> int:
    return one.untyped_storage()._cdata


def _bytes(kept: Mapping[int, Tensor]) -> int:
    return sum(one.untyped_storage().nbytes() for one in kept.values())


def _outline(base: Base, fake: FakeTensorMode) -> Base:
    """The base in fake tensors, frozen and without its tokenizers."""
    return replace(
        base,
        unet=_faked(_built(base.unet), fake),
        text_encoders=tuple(_faked(_built(encoder), fake) for encoder in base.text_encoders),
        tokenizers=(),
        device=torch.device("cpu"),
        offload=False,
    )


def _built(part: Made) -> Made:
    """A module like this one, in its precision, without storage."""
    build = getattr(type(part), "from_config", None) or type(part)._from_config  # pyright: ignore
    with torch.device("meta"):
        made = build(part.config)
    return nn.Module.to(made, part.dtype).requires_grad_(False)  # pyright: ignore


def _faked(part: Made, fake: FakeTensorMode) -> Made:
    """A copy of the module in fake tensors that are said to be on the CPU."""
    tensors: dict[int, object] = {}
    for one in (*part.parameters(), *part.buffers()):
        made = FakeTensor(fake, torch.empty_like(one, device="meta"), torch.device("cpu"))
        is_parameter = isinstance(one, nn.Parameter)
        tensors[id(one)] = nn.Parameter(made, one.requires_grad) if is_parameter else made
    return copy.deepcopy(part, tensors)


def _read(base: Base, rows: int) -> TextEmbedding:
    """Captions through the text encoders, as `Base.encode_text` takes them."""
    hidden, pooled = [], None
    for encoder in base.text_encoders:
        sdxl = base.family == "sdxl"
        numbers = torch.zeros(rows, _places(base), dtype=torch.long)
        said = encoder(numbers, output_hidden_states=sdxl)
        hidden.append(said.hidden_states[-2] if sdxl else said.last_hidden_state)
        pooled = said.text_embeds if sdxl and hasattr(said, "text_embeds") else None
    return TextEmbedding(torch.cat(hidden, dim=-1), pooled)


def _predict(base: Base, side: int, rows: int, text: TextEmbedding | None) -> None:
    """Latents of so many square pictures through the UNet."""
    config, small = base.unet.config, side // base.latent_factor
    if text is None:
        hidden = torch.randn(rows, _places(base), config["cross_attention_dim"], dtype=base.dtype)
        text = TextEmbedding(hidden)
        if base.family == "sdxl":
            wide = config["projection_class_embeddings_input_dim"]
            wide -= 6 * config["addition_time_embed_dim"]
            text = TextEmbedding(hidden, torch.randn(rows, wide, dtype=base.dtype))
    base.predict(
        torch.randn(rows, 4, small, small),
        torch.zeros(rows, dtype=torch.long),
        text,
        time_ids=torch.zeros(rows, 6),
    )
