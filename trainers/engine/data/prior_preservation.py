"""Prior preservation (DreamBooth: Ruiz et al. 2023, arXiv 2208.12242, section 3.2, equation 2).

So that "a robot" stays what it was to the base while it learns "a sks robot", every batch of the
user's pictures is learned together with one of the class: L = L_pictures + prior_weight * L_class,
each a mean over its own batch, two passes through the base. Pictures of the class are the base's
own, drawn from the words of the class before anything is learned (the paper draws about 200), or
whatever lies in the folder, kohya's `1_robot` sub-folders too.

What is missing of `prior_count` is drawn into the folder: class-0007.png with the seed 7, its
caption beside it, so that another run may take the folder for its own and draws none again. The
folder is the user's, or `prior` in the run's.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL.PngImagePlugin import PngInfo

from studio.dataset.folders import list_folder, list_parts
from studio.dataset.pictures import SUFFIXES, Pictures, read_pictures
from studio.errors import BadInput
from studio.files import file_sha256, write_file
from studio.requests.recipe import PRIOR_WEIGHT, Recipe
from trainers.engine.data.order import contents
from trainers.engine.progress import Drawn
from trainers.engine.run_folder import require_place

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainers.engine.setup import Job

__all__ = ["OWN", "Prior", "prior_of", "require_unchanged", "with_class"]

OWN = "prior"  # in the run's folder, where no other is given


@dataclass(frozen=True)
class Prior:
    """Pictures of the class, those that are there.

    words: what those without a caption are called, and what missing ones are drawn from; None where
    none are to be drawn.  count: how many there are to be at least.  size, step, buckets: as
    `read_pictures` takes them.
    """

    folder: Path
    words: str | None
    count: int
    size: int
    step: int
    buckets: bool

    def read(self) -> Pictures:
        """What the folder holds now; nothing where there are words to draw it from."""
        if self.words and not self._any():
            return Pictures((), ())
        found = read_pictures(
            self.folder,
            trigger=self.words or "",
            size=self.size,
            step=self.step,
            buckets=self.buckets,
        )
        for example in found.examples:
            if not example.caption:
                raise BadInput(
                    f"{example.path} has no caption: say what the pictures of the prior show "
                    '(prior_class), such as "a robot".'
                )
        return found

    def _any(self) -> bool:
        if not self.folder.exists():
            return False
        files = [path for part in list_parts(self.folder) for path in list_folder(part.path)]
        return any(path.suffix.lower() in SUFFIXES for path in files)

    def missing(self, present: Pictures) -> int:
        """How many pictures are to be drawn beside those present."""
        return max(0, self.count - len(present.examples)) if self.words else 0

    def place(self, number: int) -> Path:
        """Where the drawn picture of this number lies."""
        return self.folder / f"class-{number:04d}.png"

    def check(self, *, drawing: bool) -> Pictures:
        """The pictures that are there. drawing: whether others can be drawn.

        Raises BadInput for what `read_pictures` refuses, where a picture has no caption, and where
        pictures are missing that cannot be drawn.
        """
        present = self.read()
        missing = self.missing(present)
        if missing and not drawing:
            raise BadInput(
                f"{missing} pictures of {self.words!r} are missing in {self.folder}, and nothing "
                "was given to draw them: give draw, or put them there."
            )
        if missing:
            require_place(self.place(0))
        elif not present.examples:
            raise BadInput(
                f"There are no pictures of {self.words!r} in {self.folder}, and none are to be "
                "drawn: raise prior_count, or put some there."
            )
        return present


def prior_of(
    recipe: Recipe, folder: Path | None, *, run: Path, size: int, step: int
) -> Prior | None:
    """The prior that a recipe and a folder of class pictures ask for; None where neither does.

    run: the run's folder, in which the pictures lie where no folder is given.
    Raises BadInput for options of a prior without one.
    """
    if folder is None and recipe.prior_class is None:
        if recipe.prior_weight != PRIOR_WEIGHT:
            raise BadInput("prior_weight is of a prior: give prior_class, or prior_pictures")
        return None
    return Prior(
        folder=(folder or run / OWN).expanduser(),
        words=recipe.prior_class,
        count=recipe.prior_count,
        size=size,
        step=step,
        buckets=recipe.buckets,
    )


def with_class(job: "Job") -> Generator[Drawn, None, "Job"]:
    """The job with its class pictures, those that are missing drawn by the base as it stands."""
    if job.prior is None:
        return job
    found, missing = job.classes, job.prior.missing(job.classes)
    if missing:
        assert job.draw and job.prior.words  # or the job had been refused
        yield from _draw(job.prior, missing, job.draw, job.prior.words)
        found = job.prior.read()
    digests = tuple(file_sha256(example.path) for example in found.examples)
    write_file(_kept(job), contents(found.examples, digests).encode())
    return replace(job, classes=found, class_digests=digests)


def _draw(
    prior: Prior, missing: int, draw: "Callable[[str, int], Image]", words: str
) -> Generator[Drawn, None, None]:
    number = 0
    for done in range(missing):
        while prior.place(number).exists():
            number += 1
        with torch.no_grad():
            picture = draw(words, number)
        # A picture carries its recipe in these texts.
        texts, data = PngInfo(), BytesIO()
        for key, text in picture.info.items():
            if isinstance(key, str) and isinstance(text, str):
                texts.add_text(key, text)
        picture.save(data, "PNG", pnginfo=texts)
        write_file(prior.place(number), data.getvalue())
        write_file(prior.place(number).with_suffix(".txt"), f"{words}\n".encode())
        yield Drawn(done + 1, missing)


def require_unchanged(job: "Job") -> None:
    """BadInput where the class pictures that a run had from its first step on are others now."""
    if job.prior is None or not _kept(job).exists():
        return
    examples = job.classes.examples
    now = contents(examples, [file_sha256(example.path) for example in examples])
    if now != _kept(job).read_text():
        raise BadInput(
            f"the class pictures in {job.prior.folder} are no longer those that {job.run.folder} "
            "was started with: put them back, or start a new training"
        )


def _kept(job: "Job") -> Path:
    return job.run.folder / "prior.sha256"
