"""The models that a worker keeps in memory from job to job: its last base, and its adapters."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import compose
from studio.adapters.blora_blocks import split_half
from studio.bases.base import Base
from studio.files import file_version
from studio.requests.shot import Shot
from studio.workspace import Workspace, remember_base
from ui.shared.loading import BaseCache


class ModelCache:
    """One base with its adapters; another base, or other options of opening it, replaces it.

    One file is one Adapter object, so that what compose has cached for it can be used again.
    """

    def __init__(self, space: Workspace) -> None:
        self._space, self._bases = space, BaseCache()
        self._versions: dict[str, tuple[int, int] | None] = {}

    def base(self, source: str, loading: Mapping[str, object]) -> Base:
        """The base, opened with the fields of Loading in `loading`; the last one is freed first."""
        before = self._bases.key
        base = self._bases.open(source, loading)
        if self._bases.key != before:
            self._versions.clear()
            remember_base(self._space, base.source, name=base.name, family=base.family)
        return base

    def adapters(self, shots: Iterable[Shot]) -> compose.AdapterCache:
        """The adapters of the open base. Files of these shots that changed are dropped from it."""
        adapters = self._bases.adapters
        for file in {str(file) for shot in shots for file, _ in shot.adapters}:
            version = file_version(Path(split_half(file)[0]))
            if self._versions.get(file) != version:
                adapters.release([file])
                self._versions[file] = version
        return adapters

    def clear(self) -> None:
        """Free the base and its adapters, and give their memory back."""
        self._bases.clear()
        self._versions.clear()

    def make_room(self, large: int) -> None:
        """Free the base if its weights take more than `large` bytes."""
        base = self._bases.base
        if base is None:
            return
        parts = (base.unet, base.vae, *base.text_encoders)
        if sum(weight.nbytes for part in parts for weight in part.parameters()) > large:
            self.clear()
