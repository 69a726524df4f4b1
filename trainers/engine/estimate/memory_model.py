"""Count the operations and the memory of a training's pass through the base, without computing it.

The base's modules are rebuilt from PyTorch's fake tensors (studio/cost/), the deltas are attached
as in a training, and a batch is passed through. This shows to the byte what autograd saves for the
backward pass, and it shows the floating-point operations, for every kind, base and option. The
backward pass computes one product for each factor of a forward product that has a gradient.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from studio.adapters.delta import attach
from studio.adapters.token_embeddings import embedding_table
from studio.bases.base import Base
from studio.bases.quantized.widened import is_widened
from studio.cost.fake_base import fake_base, run_text_encoders, run_unet, to_fake
from studio.cost.operations import OperationCounter, PassCost, storage_of

if TYPE_CHECKING:
    from studio.adapters.delta import Delta
    from studio.requests.recipe import Recipe

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def training_cost(base: Base, deltas: "Mapping[str, Delta]", recipe: "Recipe") -> PassCost:
    """The cost of a batch through the UNet, and through the text encoders where text is trained.

    deltas: by layer, on any device.
    """
    trains_text = recipe.new_tokens > 0 or any(not name.startswith("unet.") for name in deltas)
    side = recipe.size or base.size
    precision = base.precision if recipe.precision == "auto" else recipe.precision
    fake = FakeTensorMode()
    model = fake_base(base, fake)
    fakes = {name: to_fake(delta, fake) for name, delta in deltas.items()}
    saved, counter = _SavedTensors(model, fakes), OperationCounter(model.layers(), fakes)
    if recipe.new_tokens:
        for encoder in model.text_encoders:
            embedding_table(encoder).weight.requires_grad_(True)
    if recipe.checkpointing:
        model.unet.enable_gradient_checkpointing(saved.checkpoint)
    autocast = nullcontext()
    if precision in AUTOCAST:
        autocast = torch.autocast("cpu", dtype=AUTOCAST[precision])
    with attach(model.layers(), fakes), fake, autocast, saved.recorded(), counter:
        text = run_text_encoders(model, recipe.batch) if trains_text else None
        run_unet(model, (side, side), recipe.batch, text)
    cost = replace(counter.cost(), backward=counter.backward(), saved=saved.bytes())
    if not recipe.checkpointing:
        return cost
    # Checkpointing runs the forward pass a second time, without another backward pass or optimizer.
    calls, written = cost.calls * 4 // 3, cost.written * 4 // 3
    return replace(cost, backward=cost.backward + cost.forward, calls=calls, written=written)


class _SavedTensors:
    """Records the tensors that autograd saves, except for the base's and the deltas' own."""

    def __init__(self, base: Base, deltas: "Mapping[str, Delta]") -> None:
        parts = (base.unet, *base.text_encoders, *deltas.values())
        self._own = {storage_of(t) for part in parts for t in (*part.parameters(), *part.buffers())}
        self._all: dict[int, Tensor] = {}
        self._largest_block = 0

    def recorded(self) -> saved_tensors_hooks:
        """Inside the block, everything that autograd saves is recorded."""
        return self._record_into(self._all)

    def checkpoint(self, block: nn.Module, *args: object) -> object:
        """Takes the place of gradient checkpointing: only a block's inputs stay saved."""
        self._all |= {storage_of(arg): arg for arg in args if isinstance(arg, Tensor)}
        of_block: dict[int, Tensor] = {}
        with self._record_into(of_block):
            output = block(*args)
        self._largest_block = max(self._largest_block, _bytes(of_block))
        return output

    def bytes(self) -> int:
        """The most bytes that are saved at a time."""
        return _bytes(self._all) + self._largest_block

    def _record_into(self, saved: dict[int, Tensor]) -> saved_tensors_hooks:
        def pack(tensor: Tensor) -> Tensor:
            if storage_of(tensor) not in own and not (saved is self._all and is_widened(tensor)):
                saved[storage_of(tensor)] = tensor  # a reference, so that its address stays taken
            return tensor

        own = self._own
        return saved_tensors_hooks(pack, lambda tensor: tensor)


def _bytes(tensors: Mapping[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())
