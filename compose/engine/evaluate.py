"""The one place that runs the UNet; evaluations of the same step run as rows of one batch.

The rows may be one picture under several mixes, or several pictures each under its own mix: rows of
a batch can have different weights (compose/engine/weights/batched_layers.py). Evaluations that
reuse deep features run a shallower UNet and form batches of their own, and so do evaluations of
other sizes and of longer prompts. An evaluation that is asked for twice runs once.
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

# The most latent pixels of a batch, over all rows. Small pictures are faster in a batch, as most of
# their time goes into launching operations; larger ones gain too little for the memory. On a GPU
# the limit is two rows of SDXL at 1024 pixels: mixes that run one by one are folded into the
# weights, without low-rank products beside them.
MOST_ON_CPU, MOST_ON_GPU = 8192, 2 * 128 * 128
MOST_FOLDED = 2**30  # bytes of folded weights of a batch's rows, besides the base's own weights


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of the UNet.

    latents: [1, 4, h, w], scaled for the timestep.  text: the negative prompt and the prompt, or
    the prompt alone.  mixed_weights: the changes to the weights.  time_ids: [6], SDXL only.
    deep: deep features to reuse, [rows, C, h', w'].  keeps: whether the answer holds the deep
    features.  watched: the tokens of the prompt whose attention the answer holds.
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
        """Rows of text that this evaluation adds to the batch."""
        return self.text.hidden.shape[0]

    @property
    def shape(self) -> tuple[bool, int, tuple[int, int]]:
        """Evaluations of equal shape can share a batch: (reuses deep features, tokens, size)."""
        return self.deep is not None, self.text.hidden.shape[1], _side(self)

    @property
    def key(self) -> tuple[object, ...]:
        """Evaluations with equal keys have equal answers."""
        parts = (self.latents, self.timestep, self.text, self.deep)
        return self.mixed_weights, self.watched, *map(id, parts)


@dataclass(frozen=True, eq=False)
class Answer:
    """What one evaluation gives.

    noise: the UNet's prediction, [rows, 4, h, w].  deep: the deep features, if kept.
    attention: to each of the N watched concepts, [N, h', w'].
    """

    noise: Tensor
    deep: Tensor | None
    attention: Tensor | None = None


def evaluate(base: "Base", asked: Sequence[Evaluation]) -> list[Answer]:
    """The answers to these evaluations, in their order. Runs without gradients.

    The batches depend on the number and the size of the evaluations alone, so that a picture made
    again has the same bits. Only where memory runs out, a batch is halved, and this base has no
    batches of the larger size any more. If a single evaluation finds no memory, other memory is
    given up step by step (compose/engine/gpu/memory.py).
    """
    distinct = {one.key: one for one in asked}
    # Evaluations with the same weights are put next to each other: they are one block of rows.
    order = {mixed_weights: number for number, (mixed_weights, *_) in enumerate(distinct)}
    answers: dict[tuple[object, ...], Answer] = {}
    base.move_to_device(base.unet)
    for shape in sorted({one.shape for one in distinct.values()}):
        waiting = [one for one in distinct.values() if one.shape == shape]
        waiting.sort(key=lambda one: order[one.mixed_weights])
        while waiting:
            count = _batch_length(base, waiting)
            try:
                batch = _evaluate_batch(base, waiting[:count])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if count > 1:
                    cache_of(base).most_rows[_side(waiting[0])] = _rows(waiting[: count // 2])
                elif not make_room(base, _side(waiting[0])):
                    raise
                continue
            answers |= {one.key: answer for one, answer in zip(waiting, batch, strict=False)}
            waiting = waiting[count:]
    return [answers[one.key] for one in asked]


def attend(base: "Base", asked: Sequence[Evaluation]) -> Tensor:
    """The attention of each evaluation to its watched tokens, with gradients, from one batch.

    Returns [evaluations, N, h', w'].
    """
    maps = (answer.attention for answer in _evaluate_batch(base, asked, gradients=True))
    return torch.stack([one for one in maps if one is not None])


def _evaluate_batch(
    base: "Base", asked: Sequence[Evaluation], *, gradients: bool = False
) -> list[Answer]:
    """The answers to evaluations that run as one batch."""
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
    """The attention of each evaluation to its watched tokens, in the row of its prompt."""
    maps: list[Tensor | None] = []
    first = 0
    for one in asked:
        row = first + min(1, one.rows - 1)
        maps.append(watched.maps(row, one.watched, _side(one)) if one.watched else None)
        first += one.rows
    return maps


def _suits_graphs(base: "Base", latents: Tensor, prepared: PreparedLayers) -> bool:
    """Whether a pass can be a CUDA graph: it is small, and its weights stay where they are."""
    cache = cache_of(base)
    weights_stay = not (base.parts_move or cache.training or cache.kept.refused)
    weights_stay = weights_stay and any(one is prepared for one in cache.prepared.values())
    small = latents[:, 0].numel() <= MOST_PIXELS
    return base.cuda_graphs and has_own_memory(base.device) and weights_stay and small


def _replayed(
    base: "Base",
    prepared: PreparedLayers,
    latents: Tensor,
    timestep: Tensor,
    text: TextEmbedding,
    time_ids: Tensor | None,
) -> Tensor:
    """The result of `Base.predict`, from a CUDA graph where that is faster."""
    arguments = (latents, timestep, text.hidden, text.pooled, time_ids)
    present = [one is not None for one in arguments]

    def predict(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        latents, timestep, hidden, pooled, ids = (next(rest) if is_ else None for is_ in present)
        assert latents is not None and timestep is not None and hidden is not None
        return base.predict(latents, timestep, TextEmbedding(hidden, pooled), time_ids=ids)

    inputs = [one for one in arguments if one is not None]
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
        # These ranks aren't kept: they change with the timestep, which a whole batch shares.
        now = float(asked[0].timestep)
        ranked = [(rows, at_timestep(mixed, now)) for rows, mixed in blocks]
        return _prepare_blocks(base, cache, ranked, 0)
    # On a GPU low-rank products cost nearly nothing, and there is less memory to fold into.
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
            low_rank = factors(name, mix, layers, dtype=base.dtype)
            if low_rank is not None:
                return low_rank
        if any(mix.ranks):
            return changed_weight(name, mix, layers, dense=cache.dense)
        return cache.kept.weight(name, mix, layers, cache.dense)

    row_blocks = [
        RowBlock(rows, {name: change(name, mix) for name, mix in mixes.items()})
        for (rows, _), mixes in zip(blocks, by_block, strict=True)
    ]
    changes = [one for block in row_blocks for one in block.changes.values()]
    unkept = sum(isinstance(one, Unkept) for one in changes)
    if unkept and not (cache.kept.told or base.low_memory):
        cache.kept.told = True
        warning = (
            "There is no memory for %d of %d changed weights: they are computed again at each "
            "step, which is slower."
        )
        LOG.warning(warning, unkept, len(changes))
    return prepare_layers(layers, row_blocks, room=room)


def _batch_length(base: "Base", asked: Sequence[Evaluation]) -> int:
    """How many of the first evaluations make up a batch; at least one."""
    if cache_of(base).training:
        return 1  # a training's deltas are attached to the layers, for all rows alike
    most = most_rows(base, _side(asked[0]))
    fits = [count for count in range(1, len(asked) + 1) if _rows(asked[:count]) <= most]
    return fits[-1] if fits else 1


def most_rows(base: "Base", side: tuple[int, int]) -> int:
    """The most rows of a batch of latents of this height and width.

    A limit that was set for this size, or found when memory ran out, takes the place of the usual.
    """
    height, width = side
    most = MOST_ON_CPU if base.device.type == "cpu" else MOST_ON_GPU
    return cache_of(base).most_rows.get(side, most // (height * width))


def _rows(asked: Iterable[Evaluation]) -> int:
    return sum(one.rows for one in asked)


def _side(asked: Evaluation) -> tuple[int, int]:
    height, width = asked.latents.shape[-2:]
    return height, width
