"""The UNet's transformer blocks compiled, if steps are measured to be faster so.

All blocks of a kind are alike, so that one compilation serves them all (PyTorch's "regional
compilation"). The first steps are taken as ever, some more compiled, and the faster way goes on. A
block that the compiler can't do is computed as ever, so that nothing is won and compiling ends.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from diffusers import UNet2DConditionModel
from torch import nn

LOG = logging.getLogger(__name__)

PLAIN, COMPILING, COMPILED = 4, 2, 4  # steps of each sort; the first plain one is not counted
WORTH = 0.97  # of a plain step's time


class CompiledBlocks:
    """Follows the steps of a training and decides. seconds: of its steps so far."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        kinds = set(unet._repeated_blocks or ())
        self._blocks = [one for one in unet.modules() if type(one).__name__ in kinds]
        self.seconds: list[float] = []

    @contextmanager
    def chosen(self, *, wanted: bool) -> Iterator[None]:
        """Within the block steps may be compiled. wanted: otherwise nothing is."""
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
        """A step was taken in so many seconds; what follows from that for the next."""
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
