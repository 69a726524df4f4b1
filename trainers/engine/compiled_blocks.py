"""Compile the UNet's transformer blocks, if measured steps are faster compiled.

All blocks of a class are alike, so one compilation serves them all (PyTorch's "regional
compilation"). The first steps run plain and some more run compiled; the faster way is kept. A block
that the compiler can't handle runs plain: its steps are not faster, so compiling ends.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from diffusers import UNet2DConditionModel
from torch import nn

LOG = logging.getLogger(__name__)

PLAIN, COMPILING, COMPILED = 4, 2, 4  # steps of each sort; the first plain one is not timed
WORTH = 0.97  # compiled steps must take less than this share of a plain step's time


class CompiledBlocks:
    """Times the steps of a training and decides whether to compile. seconds: times so far."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        names = set(unet._repeated_blocks or ())
        self._blocks = [module for module in unet.modules() if type(module).__name__ in names]
        self.seconds: list[float] = []

    @contextmanager
    def chosen(self, *, wanted: bool) -> Iterator[None]:
        """Within the block, steps may be compiled. wanted: False: nothing is compiled."""
        if not wanted:
            self._blocks = []
            yield
            return
        from torch._dynamo import config  # takes a second

        with config.patch(suppress_errors=True):
            try:
                yield
            finally:
                self._restore()

    def note(self, seconds: float) -> None:
        """Count a step that took so many seconds. Begin or end compiling when it is time."""
        if not self._blocks:
            return
        self.seconds.append(seconds)
        if len(self.seconds) == PLAIN:
            for block in self._blocks:
                block.compile()
        if len(self.seconds) == PLAIN + COMPILING + COMPILED:
            plain, compiled = median(self.seconds[1:PLAIN]), median(self.seconds[-COMPILED:])
            faster = compiled < WORTH * plain
            what = "go on compiled" if faster else "go on as before"
            LOG.warning("Steps %s: %.3g s compiled, %.3g s plain.", what, compiled, plain)
            if not faster:
                self._restore()

    def _restore(self) -> None:
        for block in self._blocks:
            restore(block)


def restore(block: nn.Module) -> None:
    """Undo `nn.Module.compile`."""
    block._compiled_call_impl = None
