"""What was asked of `studio train`, on the command line and in a recipe.toml named there."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import trainers
from studio.dataset.folders import Folder
from studio.errors import BadInput
from trainers import Progress
from ui.shared.loading import open_base
from ui.shared.names import slug

if TYPE_CHECKING:
    from studio.bases.base import Base
    from trainers.engine.setup import Renderer

__all__ = ["Asked"]


@dataclass(frozen=True)
class Asked:
    """A training as it was asked for; None and empty where nothing was said.

    kind: by name. options: of the kind, recipe: of trainers.Recipe, loading: of Loading, by field.
    file: the recipe.toml that says the rest.
    """

    kind: str
    pictures: Sequence[Folder]
    trigger: str | None
    base: str | None
    out: Path | None
    run: Path | None
    prior_pictures: Path | None
    init: str | None
    options: Mapping[str, Any]
    recipe: Mapping[str, Any]
    loading: Mapping[str, object]
    file: Path | None = None

    def given(self) -> dict[str, object]:
        """All but how the base is opened, by the names of the command line."""
        named = {
            "PICTURES": self.pictures or None,
            "--trigger": self.trigger,
            "--base": self.base,
            "--out": self.out,
            "--run": self.run,
            "--prior-pictures": self.prior_pictures,
            "--init": self.init,
            "--recipe": self.file,
        }
        fields = {f"--{name.replace('_', '-')}": True for name in (*self.options, *self.recipe)}
        return {name: value for name, value in (named | fields).items() if value is not None}

    @cached_property
    def written(self) -> "trainers.Written | None":
        """The recipe's file, read, with what was asked for instead; None without one."""
        if self.file is None:
            return None
        if (kind := trainers.kind_of(self.file)) != self.kind:
            raise BadInput(f"{self.file} is a recipe for {kind}: leave out {self.kind}.")
        return trainers.read_recipe(self.file, **self.options, **self.recipe)

    def wanted(self) -> trainers.Kind:
        """The kind with its options."""
        made = trainers.kinds()[self.kind]
        return self.written.kind if self.written else made(**self.options)

    def known(self) -> Mapping[str, Any]:
        """The fields of trainers.Recipe that are known before the base is."""
        return self.written.options if self.written else self.recipe

    @property
    def folders(self) -> Sequence[Folder]:
        """Where the pictures are; BadInput where nobody said."""
        found = self.pictures or (self.written.folders if self.written else ())
        return found or self._lacking("PICTURES")

    @property
    def words(self) -> str:
        """The trigger; BadInput where nobody said."""
        found = self.trigger
        if found is None and self.written:
            found = self.written.trigger
        return self._lacking("--trigger") if found is None else found

    @property
    def place(self) -> Path:
        """The adapter's file."""
        kept = self.written.path("out") if self.written else None
        return self.out or kept or Path(f"{slug(self.words) or self.kind}.safetensors")

    @property
    def prior(self) -> Path | None:
        """The folder of class pictures."""
        return self.prior_pictures or (
            self.written.path("prior_pictures") if self.written else None
        )

    @property
    def start(self) -> str | None:
        """The adapter to start from."""
        return self.init or (self.written.init if self.written else None)

    @property
    def _kept(self) -> dict[str, str]:
        """What the recipe's file says of the base, where no other is asked for."""
        return self.written.base if self.written and self.base is None else {}

    @property
    def source(self) -> str:
        """The base's."""
        return self.base or self._kept.get("source", "sketch")

    @property
    def opening(self) -> dict[str, object]:
        """How the base is to be opened: fields of Loading."""
        return {key: value for key, value in self._kept.items() if key != "source"} | dict(
            self.loading
        )

    def _lacking(self, what: str) -> Never:
        raise BadInput(f"{what} is missing: studio train {self.kind} --help shows an example.")

    def check(self) -> int:
        """How many pictures there are; BadInput for what is wrong whatever the base."""
        found = trainers.check(
            self.folders,
            trigger=self.words,
            out=self.place,
            run=self.run,
            prior_pictures=self.prior,
            init=self.start,
            **self.known(),
        )
        return len(found.examples)

    def estimate(self, base: "Base", *, pictures: int = 0) -> "trainers.Estimate":
        """What it will take on this base, with so many pictures."""
        return trainers.estimate(
            self.wanted(),
            base,
            pictures=pictures,
            runs=self.run.parent if self.run else "runs",
            prior_pictures=self.prior,
            recipe=self.written.recipe(base) if self.written else None,
            **({} if self.written else self.recipe),
        )

    def open(self) -> "Base":
        """The base, as the recipe says where nothing else was asked for."""
        return open_base(self.source, self.opening)

    def train(self, base: "Base", *, draw: "Renderer") -> Generator[Progress, None, None]:
        """Do it."""
        common: dict[str, Any] = {
            "out": self.place,
            "run": self.run,
            "prior_pictures": self.prior_pictures,
            "init": self.init,
            "draw": draw,
        }
        if self.file:
            return trainers.repeat(
                self.file,
                base,
                pictures=self.pictures or None,
                trigger=self.trigger,
                **common,
                **self.options,
                **self.recipe,
            )
        return trainers.train(
            self.wanted(), base, self.folders, trigger=self.words, **common, **self.recipe
        )
