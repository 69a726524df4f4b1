"""What a base keeps from one picture to the next.

The plan, the changed weights and the encoded texts of the last shot, and the palette of the
previews. The base itself is changed only inside `studio.adapters.delta.swap_weights` and
`compose.engine.weights.batched_layers.PreparedLayers.applied`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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

# A batch: bytes for weights of its rows, height and width of its latents, and for each block of
# rows their number and their weights.
Batch = tuple[int, tuple[int, int], tuple[tuple[int, MixedWeights], ...]]
# A prompt, how it is read, in how many pieces at least, and the weights of the text encoders.
Text = tuple[str, "PromptReading", int, MixedWeights]

TEXT_BYTES = 64 * 2**20  # of the encoded texts that are kept: for SDXL a hundred in float32
TEXT_BYTES_OF_BATCH = 512 * 2**20


@dataclass(frozen=True, eq=False)
class PlannedMethod:
    """A method made ready for some adapters and a number of steps.

    calls: of each step. weights: of the mixes it asks for, in the UNet or in the text encoders.
    """

    plan: Plan
    calls: list[list[Call]]
    weights: dict[tuple[Mix, bool], MixedWeights] = field(default_factory=dict)


@dataclass
class RenderCache:
    """What outlives a picture, for the next one on the same base."""

    kept: KeptWeights = field(default_factory=KeptWeights)
    prepared: dict[Batch, PreparedLayers] = field(default_factory=dict)
    graphs: StepGraphs = field(default_factory=StepGraphs)
    steady: bool = False  # whether each of the shots at work has one mix for all steps
    texts: dict[Text, "TextEmbedding"] = field(default_factory=dict)
    dense: DenseChanges = field(default_factory=DenseChanges)
    palette: Tensor | None = None
    # Of each adapter for one version of its tensors.
    sizes: "WeakKeyDictionary[Adapter, tuple[int, Sizes]]" = field(
        default_factory=WeakKeyDictionary
    )
    # Of latents [h, w], where the memory held no more rows, and where it holds no weights.
    most_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    # Bytes beside the weights: of a height and width, and of rows of the UNet or 0 for the VAE.
    taken: dict[tuple[tuple[int, int], int], float] = field(default_factory=dict)
    without_weights: set[tuple[int, int]] = field(default_factory=set)
    training: bool = False  # whether a training has its deltas on the layers now
    _planned: tuple[object, PlannedMethod] | None = None
    _text_bytes: int = TEXT_BYTES

    @contextmanager
    def for_many(self) -> Iterator[None]:
        """Keep more texts until the block is left; then restore the limits of rows."""
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
        """The method made ready; that of the last shot again where nothing it rests on differs.

        beside: the adapters that only carry embeddings.
        """
        adapters = [(one.adapter, one.version, one.strength) for one in (*changes, *beside)]
        wanted = (type(method), method, adapters, len(changes), steps)
        if self._planned is None or self._planned[0] != wanted:
            plan = method.prepare(changes, steps)
            self._planned = wanted, PlannedMethod(plan, record(plan, steps))
        return self._planned[1]

    def limit_weights(self, most: int, *, changes: bool = False) -> None:
        """Keep changed weights of the UNet of so many bytes from now on.

        changes: whether the changes that they are sums of are kept beside them.
        """
        if self.kept.limit(most):
            self.prepared.clear()
            self.graphs.release(())
        if not changes:
            self.dense = DenseChanges(most=0)  # they are sums of a moment there

    def release(self, unet: set[MixedWeights], texts: set[MixedWeights]) -> None:
        """Drop all but what these mixes of the UNet, those of the text encoders and no mix need."""
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
        """Of the texts that were encoded first, as many as there is no room for."""
        left = self._text_bytes
        for key in reversed([*self.texts]):
            left -= self.texts[key].nbytes
            if left < 0:
                del self.texts[key]


_CACHES: "WeakKeyDictionary[Base, RenderCache]" = WeakKeyDictionary()


def cache_of(base: "Base") -> RenderCache:
    """What is kept for this base; it goes when the base goes."""
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
