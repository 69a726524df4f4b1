"""A cache for each base, kept from one picture to the next.

It holds the plan, the changed weights and the encoded texts of the last shot, and the palette of
previews. The base itself is changed only inside `studio.adapters.delta.swap_weights` and
`compose.engine.weights.batched_layers.PreparedLayers.applied`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import Tensor

from compose.engine.gpu.step_graphs import StepGraphs
from compose.engine.method import Call, Method, Mix, Plan, record
from compose.engine.weights.adapter_change import Change, DenseChanges, Sizes, adapter_version
from compose.engine.weights.batched_layers import PreparedLayers
from compose.engine.weights.kept_weights import KeptWeights
from compose.engine.weights.mixed_weights import MixedWeights, WeightMix

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base
    from studio.bases.prompts import PromptReading, TextEmbedding

# The key of a batch: bytes for folded weights, height and width of the latents, and the number of
# rows and the mixed weights of each block of rows.
Batch = tuple[int, tuple[int, int], tuple[tuple[int, MixedWeights], ...]]
# The key of an encoded text: the text, how it is read, the least number of pieces, and the mixed
# weights of the text encoders.
Text = tuple[str, "PromptReading", int, MixedWeights]

TEXT_BYTES = 64 * 2**20  # of encoded texts to keep: about a hundred of SDXL's in float32
TEXT_BYTES_OF_BATCH = 512 * 2**20


@dataclass(frozen=True, eq=False)
class PlannedMethod:
    """A method prepared for its adapters and a number of steps.

    calls: the calls of each step. weights: the mixed weights of each mix, for the UNet (True) and
    for the text encoders (False).
    """

    plan: Plan
    calls: list[list[Call]]
    weights: dict[tuple[Mix, bool], MixedWeights] = field(default_factory=dict)


@dataclass
class RenderCache:
    """What is kept after a picture for the next one on the same base.

    lock: held while the base's weights are changed or its parts are moved.
    """

    lock: RLock = field(default_factory=RLock)
    kept: KeptWeights = field(default_factory=KeptWeights)
    prepared: dict[Batch, PreparedLayers] = field(default_factory=dict)
    graphs: StepGraphs = field(default_factory=StepGraphs)
    steady: bool = False  # whether each of the current shots has the same mixes at all steps
    texts: dict[Text, "TextEmbedding"] = field(default_factory=dict)
    dense: DenseChanges = field(default_factory=DenseChanges)
    palette: Tensor | None = None
    # The sizes of each adapter's changes, for one version of its tensors.
    sizes: "WeakKeyDictionary[Adapter, tuple[int, Sizes]]" = field(
        default_factory=WeakKeyDictionary
    )
    # The most rows of a batch, by height and width of the latents, where a limit is known.
    most_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    # Bytes of a pass besides the weights, by height and width in pixels and by the rows of the
    # UNet's batch, or 0 for the VAE.
    taken: dict[tuple[tuple[int, int], int], float] = field(default_factory=dict)
    # Heights and widths of latents for which memory has no room for changed weights.
    without_weights: set[tuple[int, int]] = field(default_factory=set)
    training: bool = False  # whether a training has deltas attached to the layers now
    _planned: tuple[object, PlannedMethod] | None = None
    _text_bytes: int = TEXT_BYTES

    @contextmanager
    def for_many(self) -> Iterator[None]:
        """Keep more texts within the block; afterwards restore the limits of rows."""
        rows = self.most_rows
        self.most_rows = dict(rows)
        self._text_bytes = TEXT_BYTES_OF_BATCH
        try:
            yield
        finally:
            self.most_rows, self._text_bytes = rows, TEXT_BYTES
            self._drop_older_texts()

    def plan(
        self, method: Method, changes: "Sequence[Change]", beside: "Sequence[Change]", steps: int
    ) -> PlannedMethod:
        """The prepared method; the last one again where method, adapters and steps are the same.

        beside: the adapters that have only new words.
        """
        adapters = [(one.adapter, one.version, one.strength) for one in (*changes, *beside)]
        wanted = (type(method), method, adapters, len(changes), steps)
        if self._planned is None or self._planned[0] != wanted:
            plan = method.prepare(changes, steps)
            self._planned = wanted, PlannedMethod(plan, record(plan, steps))
        return self._planned[1]

    def limit_weights(self, most: int, *, changes: bool = False) -> None:
        """Keep at most this many bytes of the UNet's changed weights from now on.

        changes: whether to keep each adapter's dense changes as well.
        """
        if self.kept.limit(most):
            self.prepared.clear()
            self.graphs.release(())
        if not changes:
            self.dense = DenseChanges(most=0)

    def release(self, unet: set[MixedWeights], texts: set[MixedWeights]) -> None:
        """Drop everything that these mixed weights and the plain text encoders don't need."""
        texts = texts | {frozenset()}
        weights = frozenset[tuple[str, WeightMix]]().union(*unet)
        shares = {share for _, mix in weights.union(*texts) for share in mix.shares}
        self.dense.release({(adapter, version) for adapter, version, _ in shares})
        self.kept.release(weights)
        self.prepared = {
            key: one
            for key, one in self.prepared.items()
            if all(changed in unet for _, changed in key[2])
        }
        self.graphs.release(set(self.prepared.values()))
        self.texts = {key: one for key, one in self.texts.items() if key[-1] in texts}
        self._drop_older_texts()

    def _drop_older_texts(self) -> None:
        """Drop the texts that were encoded first, until the others fit."""
        left = self._text_bytes
        for key in reversed([*self.texts]):
            left -= self.texts[key].nbytes
            if left < 0:
                del self.texts[key]


_CACHES: "WeakKeyDictionary[Base, RenderCache]" = WeakKeyDictionary()


def cache_of(base: "Base") -> RenderCache:
    """The cache of this base; it is freed with the base."""
    return _CACHES.setdefault(base, RenderCache())


def adapters_on(base: "Base", pairs: "Iterable[tuple[Adapter, float]]") -> list[Change]:
    """The shot's adapters on this base."""
    sizes = cache_of(base).sizes
    changes = []
    for adapter, strength in pairs:
        version = adapter_version(adapter)
        if sizes.get(adapter, (None,))[0] != version:
            sizes[adapter] = version, {}
        known = sizes[adapter][1]
        changes.append(Change(adapter, float(strength), base.layers_and_norms(), version, known))
    return changes
