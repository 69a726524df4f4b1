"""What a worker keeps at hand from job to job: the base it opened last, and adapters."""

import gc
from collections.abc import Mapping
from pathlib import Path

import torch

from studio.adapters.adapter import Adapter
from studio.adapters.blora_blocks import split_half
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.requests.resolved_shot import ResolvedShot, resolve
from studio.requests.shot import Shot
from studio.workspace import Workspace, remember_base
from ui.shared.loading import open_base

__all__ = ["ModelCache"]

MOST_ADAPTERS = 8


class ModelCache:
    """One base, opened when asked for another or for the same in another way, and adapters.

    The same file gives the same Adapter, for which compose keeps what it has computed.
    """

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._base: Base | None = None
        self._opened: object = None
        self._adapters: dict[tuple[str, int, int], Adapter] = {}

    def base(self, source: str, loading: Mapping[str, object]) -> Base:
        """The base, opened as `loading` says; what was open before is let go of first."""
        wanted = (source, tuple(sorted(loading.items())))
        if self._base is None or self._opened != wanted:
            if self._base is not None:
                self.clear()
            self._base, self._opened = open_base(source, loading), wanted
            base = self._base
            remember_base(self._space, base.source, name=base.name, family=base.family)
        return self._base

    def resolve(self, shot: Shot, base: Base) -> ResolvedShot:
        """The shot with its adapters loaded, from here where they lie here."""
        return resolve(shot, base, load=self._load)

    def clear(self) -> None:
        """Let go of everything, and give its memory back."""
        self._base = self._opened = None
        self._adapters.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def make_room(self, large: int) -> None:
        """Let go of a base of more than so many bytes."""
        base = self._base
        if base is None:
            return
        parts = (base.unet, base.vae, *base.text_encoders)
        if sum(weight.nbytes for part in parts for weight in part.parameters()) > large:
            self.clear()

    def _load(self, one: str | Path) -> Adapter:
        file = Path(split_half(str(one))[0])
        state = file.stat() if file.exists() else None
        key = (str(one), state.st_mtime_ns, state.st_size) if state else None
        loaded = self._adapters.pop(key, None) if key else None
        loaded = loaded or load_adapter(one)
        if key:
            self._adapters[key] = loaded  # the last used last
        while len(self._adapters) > MOST_ADAPTERS:
            del self._adapters[next(iter(self._adapters))]
        return loaded
