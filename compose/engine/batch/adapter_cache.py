"""A cache of adapters: each file is read once for many shots, and kept while there is room."""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from compose.engine.batch.allocator import uncollected
from studio.adapters.adapter import Adapter
from studio.adapters.load import load_adapter
from studio.requests.resolved_shot import ResolvedShot, resolve

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.requests.shot import Shot

MOST = 2**30  # bytes of tensors; the adapters used last stay


class AdapterCache:
    """The adapters of many shots on one base."""

    def __init__(self, base: "Base", *, most: int = MOST) -> None:
        self.base, self.most = base, most
        self._loaded: OrderedDict[str, tuple[Adapter, int]] = OrderedDict()

    def resolve(self, shot: "Shot") -> ResolvedShot:
        """The resolved shot; one file is the same Adapter object in every shot."""
        return resolve(shot, self.base, load=self._load)

    def release(self, files: Iterable[str]) -> None:
        """Drop adapters that no later shot needs: their memory is faster than new memory."""
        for file in files:
            self._loaded.pop(file, None)

    def _load(self, file: str | Path) -> Adapter:
        key = str(file)
        if key not in self._loaded:
            with uncollected():
                adapter = load_adapter(file, base=self.base)
            self._loaded[key] = adapter, _bytes(adapter)
        self._loaded.move_to_end(key)
        while len(self._loaded) > 1 and sum(size for _, size in self._loaded.values()) > self.most:
            self._loaded.popitem(last=False)
        return self._loaded[key][0]


def _bytes(adapter: Adapter) -> int:
    tensors = (one for delta in adapter.deltas.values() for one in delta.parameters())
    return sum(tensor.nbytes for tensor in tensors)
