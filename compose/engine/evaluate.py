"""The one place that runs the UNet: what is asked for together runs as rows of one batch.

Evaluations of one picture under several mixes, or of several pictures under theirs, are rows with
different weights (compose/engine/weights/batched_layers.py). Those that reuse deep features run a
shallower UNet, so they are batches of their own, as are prompts of more pieces. What is asked for
twice is evaluated once.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose.engine.deep_features import keeping, reusing
from compose.engine.gpu.memory import make_room
from compose.engine.gpu.step_graphs import MOST_PIXELS
from compose.engine.regions.attention import Watched, Words, watching
from compose.engine.weights.batched_layers import (
    LayerChange,
    PreparedLayers,
    RowBlock,
    Unkept,
    prepare_layers,
)
from compose.engine.weights.mixed_weights import (
    MixedWeights,
    WeightMix,
    at_timestep,
    changed_weight,
    depends_on_timestep,
    factors,
)
from compose.engine.weights.render_cache import RenderCache, cache_of
from studio.bases.device import has_own_memory
from studio.bases.prompts import TextEmbedding
from studio.bases.quantized.widened import widening_again
from studio.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from studio.bases.base import Base

LOG = logging.getLogger(__name__)

# Latent pixels of all rows of a batch on a CPU. Small pictures gain from company, as most of their
# time is the calls themselves; larger ones gain nothing that would be worth the memory.
# On a GPU it is so from two rows of SDXL's on: apart, mixes have weights of their own and no
# products beside them.
MOST_ON_CPU, MOST_ON_GPU = 8192, 2 * 128 * 128
MOST_FOLDED = 2**30  # bytes of the weights of a batch's rows, beside the base's own


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of the UNet.

    latents: [1, 4, h, w], scaled for the timestep.  text: of the negative prompt and the prompt,
    or of the prompt alone.  mixed_weights: what is mixed into the weights.  time_ids: [6], SDXL
    only.  deep: [rows of text, C, h', w'], deep features to be reused.  keeps: wants those it
    computes.  watched: places of tokens of the prompt, wants the attention to each of these.
    """

    latents: Tensor
    timestep: Tensor
    text: TextEmbedding
    mixed_weights: MixedWeights
    time_ids: Tensor | None = None
    deep: Tensor | None = None
    keeps: bool = False
    watched: Words = ()

    @property
    def rows(self) -> int:
        """Of the batch."""
        return self.text.hidden.shape[0]

    @property
    def shape(self) -> tuple[bool, int, tuple[int, int]]:
        """Equal for what can share a batch: whether deep features are reused, tokens, and size."""
        return self.deep is not None, self.text.hidden.shape[1], _side(self)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for what gives equal answers."""
        parts = (self.latents, self.timestep, self.text, self.deep)
        return self.mixed_weights, self.watched, *map(id, parts)


@dataclass(frozen=True, eq=False)
class Answer:
    """noise: what the UNet predicts, [rows, 4, h, w].  deep: its deep features, if kept.

    attention: to what was watched, [N, h', w'].
    """

    noise: Tensor
    deep: Tensor | None
    attention: Tensor | None = None


def evaluate(base: "Base", asked: Sequence[Evaluation]) -> list[Answer]:
    """An answer to each, in their order.

    Runs without gradients. Which of them share a batch follows from their number and size alone,
    so that a picture made again is the same bit for bit; only a batch that there is no memory
    for is halved, and batches of that size are not tried again on this base. What can't be halved
    is tried with less and less of the memory taken (compose/engine/gpu/memory.py).
    """
    once = {one.key: one for one in asked}
    # Neighbours with the same weights are one block of rows.
    order = {mixed_weights: number for number, (mixed_weights, *_) in enumerate(once)}
    answers: dict[tuple[object, ...], Answer] = {}
    base.move_to_device(base.unet)
    for shape in sorted({one.shape for one in once.values()}):
        alike = [one for one in once.values() if one.shape == shape]
        alike.sort(key=lambda one: order[one.mixed_weights])
        while alike:
            count = _batch_length(base, alike)
            try:
                found = _evaluate_batch(base, alike[:count])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if count > 1:
                    cache_of(base).most_rows[_side(alike[0])] = _rows(alike[: count // 2])
                elif not make_room(base, _side(alike[0])):
                    raise
                continue
            answers |= {one.key: answer for one, answer in zip(alike, found, strict=False)}
            alike = alike[count:]
    return [answers[one.key] for one in asked]


def attend(base: "Base", asked: Sequence[Evaluation]) -> Tensor:
    """The attention of each to what it watches, as one batch and with gradients: [N, ...]."""
    found = (one.attention for one in _evaluate_batch(base, asked, gradients=True))
    return torch.stack([one for one in found if one is not None])


def _evaluate_batch(
    base: "Base", asked: Sequence[Evaluation], *, gradients: bool = False
) -> list[Answer]:
    """The answers to what runs as one batch."""
    first, counts = asked[0], [one.rows for one in asked]
    latents = torch.cat([one.latents.expand(one.rows, -1, -1, -1) for one in asked])
    timestep = first.timestep
    if any(one.timestep is not timestep for one in asked):
        timestep = torch.stack([one.timestep for one in asked for _ in range(one.rows)])
    text = first.text if len(asked) == 1 else TextEmbedding.joined(one.text for one in asked)
    deep = [one.deep for one in asked if one.deep is not None]
    with torch.no_grad():
        prepared = _prepare(base, asked)
    with torch.set_grad_enabled(gradients), ExitStack() as stack:
        if gradients and base.quantize != "none":
            stack.enter_context(widening_again())
        stack.enter_context(prepared.applied())
        if deep:
            stack.enter_context(reusing(base.unet, torch.cat(deep)))
        keeps = any(one.keeps for one in asked)
        kept = stack.enter_context(keeping(base.unet)) if keeps and not deep else []
        watches = any(one.watched for one in asked)
        watched = stack.enter_context(watching(base.unet)) if watches else None
        if deep or keeps or watches or not _suits_graphs(base, latents, prepared):
            noise = base.predict(latents, timestep, text, time_ids=_time_ids(asked))
        else:
            noise = _replayed(base, prepared, latents, timestep, text, _time_ids(asked))
        attention = [None] * len(asked) if watched is None else _attention(watched, asked)
    features = kept[0].split(counts) if kept else [None] * len(asked)
    return [Answer(*one) for one in zip(noise.split(counts), features, attention, strict=True)]


def _attention(watched: Watched, asked: Sequence[Evaluation]) -> list[Tensor | None]:
    """The attention of each evaluation's row with the prompt to what it watches."""
    found: list[Tensor | None] = []
    first = 0
    for one in asked:
        row = first + min(1, one.rows - 1)
        found.append(watched.maps(row, one.watched, _side(one)) if one.watched else None)
        first += one.rows
    return found


def _suits_graphs(base: "Base", latents: Tensor, prepared: PreparedLayers) -> bool:
    """Whether a pass over these may be a CUDA graph: a small one of weights that stay in place."""
    cache = cache_of(base)
    still = not (base.parts_move or cache.training or cache.kept.refused)
    still = still and any(one is prepared for one in cache.prepared.values())
    small = latents[:, 0].numel() <= MOST_PIXELS
    return base.cuda_graphs and has_own_memory(base.device) and still and small


def _replayed(
    base: "Base",
    prepared: PreparedLayers,
    latents: Tensor,
    timestep: Tensor,
    text: TextEmbedding,
    time_ids: Tensor | None,
) -> Tensor:
    """What `Base.predict` gives, by a graph where that is faster."""
    given = (latents, timestep, text.hidden, text.pooled, time_ids)
    there = [one is not None for one in given]

    def predict(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        latents, timestep, hidden, pooled, ids = (next(rest) if is_ else None for is_ in there)
        assert latents is not None and timestep is not None and hidden is not None
        return base.predict(latents, timestep, TextEmbedding(hidden, pooled), time_ids=ids)

    inputs = [one for one in given if one is not None]
    return cache_of(base).graphs.run(prepared, predict, inputs)


def _time_ids(asked: Sequence[Evaluation]) -> Tensor | None:
    """[6], or [rows, 6] where pictures differ; None where the base takes none."""
    ids = [one.time_ids for one in asked for _ in range(one.rows) if one.time_ids is not None]
    if not ids:
        return None
    return ids[0] if all(one is ids[0] for one in ids) else torch.stack(ids)


def _prepare(base: "Base", asked: Sequence[Evaluation]) -> PreparedLayers:
    """The changes of a batch's rows, prepared once for all steps and pictures."""
    cache = cache_of(base)
    neighbours = groupby(asked, key=lambda one: one.mixed_weights)
    blocks = tuple((_rows(inside), mixed_weights) for mixed_weights, inside in neighbours)
    if any(depends_on_timestep(mixed) for _, mixed in blocks):
        # Not kept: they are others at the next step. Those of a batch have one timestep.
        now = float(asked[0].timestep)
        ranked = [(rows, at_timestep(mixed, now)) for rows, mixed in blocks]
        return _prepare_blocks(base, cache, ranked, 0)
    # A GPU adds low-rank products for nearly nothing, and has less room.
    room = MOST_FOLDED if cache.steady and base.device.type == "cpu" else 0
    key = room, _side(asked[0]), blocks
    if key not in cache.prepared:
        cache.prepared[key] = _prepare_blocks(base, cache, blocks, room)
    return cache.prepared[key]


def _prepare_blocks(
    base: "Base", cache: RenderCache, blocks: Sequence[tuple[int, MixedWeights]], room: int
) -> PreparedLayers:
    layers = base.layers_and_norms()
    by_block = [dict(mixed_weights) for _, mixed_weights in blocks]
    first, *others = by_block
    shared = {name for name, mix in first.items() if all(one.get(name) == mix for one in others)}

    def change(name: str, mix: WeightMix) -> LayerChange:
        if name not in shared or any(mix.ranks):
            found = factors(name, mix, layers, dtype=base.dtype)
            if found is not None:
                return found
        if any(mix.ranks):
            return changed_weight(name, mix, layers, dense=cache.dense)
        return cache.kept.weight(name, mix, layers, cache.dense)

    made = [
        RowBlock(rows, {name: change(name, mix) for name, mix in mixes.items()})
        for (rows, _), mixes in zip(blocks, by_block, strict=True)
    ]
    changes = [one for block in made for one in block.changes.values()]
    unkept = sum(isinstance(one, Unkept) for one in changes)
    if unkept and not (cache.kept.told or base.low_memory):
        cache.kept.told = True
        said = "%d of %d changed weights find no room: they are computed at each step, slower."
        LOG.warning(said, unkept, len(changes))
    return prepare_layers(layers, made, room=room)


def _batch_length(base: "Base", asked: Sequence[Evaluation]) -> int:
    """How many of them, from the first on, make up a batch; at least one."""
    if cache_of(base).training:
        return 1  # a training has its deltas on the layers, and they have but one place
    most = most_rows(base, _side(asked[0]))
    fits = [count for count in range(1, len(asked) + 1) if _rows(asked[:count]) <= most]
    return fits[-1] if fits else 1


def most_rows(base: "Base", side: tuple[int, int]) -> int:
    """Of a batch of latents of this height and width, where no other limit was set or found."""
    height, width = side
    most = MOST_ON_CPU if base.device.type == "cpu" else MOST_ON_GPU
    return cache_of(base).most_rows.get(side, most // (height * width))


def _rows(asked: Iterable[Evaluation]) -> int:
    return sum(one.rows for one in asked)


def _side(asked: Evaluation) -> tuple[int, int]:
    height, width = asked.latents.shape[-2:]
    return height, width
