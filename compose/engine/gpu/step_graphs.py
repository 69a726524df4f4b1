"""Passes of a small UNet as CUDA graphs, as launching its kernels takes longer than running them.

A pass is captured at its first use and replayed from then on, so all steps of a picture, and the
same picture later, are computed in the same way. A graph belongs to the shapes of its inputs and to
the changed weights, whose addresses are part of it. Whether replaying is faster is measured right
after capturing. If capturing fails, a warning says so and all passes run without graphs.
"""

import logging
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from studio.errors import reason_of

LOG = logging.getLogger(__name__)

MOST_PIXELS = 16384  # latent pixels of all rows; larger passes keep a GPU busy without graphs
MOST_GRAPHS = 16
WARM, TIMED = 3, 3  # passes before capturing, and for a measurement
WORTH = 0.95  # a graph is used if it takes less than this share of the plain pass's time

Pass = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured pass. inputs, output: the tensors that it reads and writes."""

    inputs: Sequence[Tensor]
    output: Tensor
    replay: Callable[[], None]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The pass's output for inputs of the same shapes."""
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        self.replay()
        return self.output.clone()


Pools = dict[torch.device, Any]


def capture(work: Pass, inputs: Sequence[Tensor], pools: Pools) -> Graph:
    """Capture a pass. pools: the memory that the graphs of a device share: one runs at a time."""
    fixed = [one.clone() for one in inputs]
    device = fixed[0].device
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                work(*fixed)
        torch.cuda.current_stream().wait_stream(aside)
        if device not in pools:
            pools[device] = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Another thread may decode a picture meanwhile.
        with torch.cuda.graph(graph, pool=pools[device], capture_error_mode="thread_local"):
            output = work(*fixed)
    return Graph(fixed, output, graph.replay)


def seconds_of(work: Pass, inputs: Sequence[Tensor]) -> float:
    """The shortest time of a few runs of a pass."""
    taken = []
    for _ in range(TIMED):
        torch.cuda.synchronize(inputs[0].device)
        begun = perf_counter()
        work(*inputs)
        torch.cuda.synchronize(inputs[0].device)
        taken.append(perf_counter() - begun)
    return min(taken)


@dataclass(eq=False)
class StepGraphs:
    """The graphs of one base, each with an owner: the object that holds the graph's weights."""

    capture: Callable[[Pass, Sequence[Tensor], Pools], Graph] = capture
    seconds_of: Callable[[Pass, Sequence[Tensor]], float] = seconds_of
    failed: bool = False
    _pools: Pools = field(default_factory=dict)
    _passes: dict[tuple[object, Hashable], Graph | None] = field(default_factory=dict)

    def run(self, owner: object, work: Pass, inputs: Sequence[Tensor]) -> Tensor:
        """The result of work(*inputs), from a graph where that is faster."""
        if self.failed:
            return work(*inputs)
        key = owner, tuple((one.shape, one.dtype) for one in inputs)
        if key not in self._passes:
            try:
                self._passes[key] = self._faster(work, inputs)
            except RuntimeError as error:
                self.failed = True
                self._passes.clear()
                warning = "Steps are computed without CUDA graphs, which failed: %s"
                LOG.warning(warning, reason_of(error))
                return work(*inputs)
            while len(self._passes) > MOST_GRAPHS:
                del self._passes[next(iter(self._passes))]
        graph = self._passes[key]
        return work(*inputs) if graph is None else graph(*inputs)

    def release(self, owners: Collection[object]) -> None:
        """Drop the graphs of all but these owners."""
        self._passes = {key: one for key, one in self._passes.items() if key[0] in owners}

    def _faster(self, work: Pass, inputs: Sequence[Tensor]) -> Graph | None:
        """The captured pass, or None where it is not faster."""
        graph = self.capture(work, inputs, self._pools)
        plain = self.seconds_of(work, inputs)
        return graph if self.seconds_of(graph, inputs) < WORTH * plain else None
