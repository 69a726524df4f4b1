"""Prior preservation (DreamBooth: Ruiz et al. 2023, arXiv 2208.12242, section 3.2, equation 2).

While the base learns "a sks robot", "a robot" shall stay what it was. So every batch of the user's
pictures comes with a batch of class pictures: L = L_pictures + prior_weight * L_class, each a mean
over its own batch, in two passes through the base. Class pictures lie in a folder, which may have
kohya's sub-folders (`1_robot`). Others are drawn by the base itself from the words of the class,
before the training begins (the paper draws about 200).

Pictures that are missing for `prior_count` are drawn into the folder: class-0007.png has the seed
7, and its caption lies beside it. Another run may name that folder and need not draw them again.
The folder is the user's, or `prior` in the run's folder.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL.PngImagePlugin import PngInfo

from studio.dataset.folders import list_parts
from studio.dataset.listing import list_pictures
from studio.dataset.pictures import Pictures, read_pictures
from studio.errors import BadInput
from studio.files import check_writable, expand_home, write_file
from studio.requests.recipe import PRIOR_WEIGHT, Recipe
from trainers.engine.progress import Drawn
from trainers.engine.run.folder import Run

if TYPE_CHECKING:
    from PIL.Image import Image

PRIOR_FOLDER = "prior"  # the default folder, in the run's folder


@dataclass(frozen=True)
class Prior:
    """The class pictures that a training asks for.

    class_words: the caption of pictures without one, and the prompt for missing pictures; None:
    none are drawn.  count: the least number of pictures.  size, step, buckets: as in
    `read_pictures`.
    """

    folder: Path
    class_words: str | None
    count: int
    size: int
    step: int
    buckets: bool

    def read(self) -> Pictures:
        """The pictures that the folder holds now. It may be empty if missing ones can be drawn.

        Raises BadInput for what `read_pictures` refuses, and where a picture has no caption.
        """
        if self.class_words and not self._has_pictures():
            return Pictures()
        pictures = read_pictures(
            self.folder,
            trigger=self.class_words or "",
            size=self.size,
            step=self.step,
            buckets=self.buckets,
        )
        for example in pictures.examples:
            if not example.caption:
                raise BadInput(
                    f"{example.path} has no caption: say what the pictures of the prior show "
                    '(prior_class), such as "a robot".'
                )
        return pictures

    def _has_pictures(self) -> bool:
        if not self.folder.exists():
            return False
        return any(list_pictures(part.path)[0] for part in list_parts(self.folder))

    def missing(self, present: Pictures) -> int:
        """How many pictures have to be drawn in addition to those present."""
        return max(0, self.count - len(present.examples)) if self.class_words else 0

    def path_of(self, number: int) -> Path:
        """The file of the drawn picture with this number."""
        return self.folder / f"class-{number:04d}.png"

    def check(self, present: Pictures, *, can_draw: bool) -> None:
        """Raise BadInput where pictures are missing and cannot be drawn.

        can_draw: whether the caller can draw pictures.
        """
        missing = self.missing(present)
        if missing and not can_draw:
            raise BadInput(
                f"{missing} pictures of {self.class_words!r} are missing in {self.folder}, and "
                "nothing was given to draw them: give draw, or put them there."
            )
        if missing:
            check_writable(self.path_of(0))
        elif not present.examples:
            raise BadInput(
                f"There are no pictures of {self.class_words!r} in {self.folder}, and none are to "
                "be drawn: raise prior_count, or put some there."
            )

    def draw(
        self, missing: int, draw: "Callable[[str, int], Image]"
    ) -> Generator[Drawn, None, None]:
        """Draw the missing class pictures. A picture's number is its seed."""
        assert self.class_words
        number = 0
        for done in range(missing):
            while self.path_of(number).exists():
                number += 1
            with torch.no_grad():
                picture = draw(self.class_words, number)
            write_file(self.path_of(number), _as_png(picture))
            caption = f"{self.class_words}\n".encode()
            write_file(self.path_of(number).with_suffix(".txt"), caption)
            yield Drawn(done + 1, missing)


def prior_of(
    recipe: Recipe, folder: Path | None, *, run: Path, size: int, step: int
) -> Prior | None:
    """The prior that a recipe or a folder of class pictures asks for; None where neither does.

    run: the run's folder, which has the pictures where no folder is given.
    Raises BadInput for options that need a prior.
    """
    if folder is None and recipe.prior_class is None:
        if recipe.prior_weight != PRIOR_WEIGHT:
            raise BadInput("prior_weight needs class pictures: give prior_class or prior_pictures")
        return None
    return Prior(
        folder=expand_home(folder or run / PRIOR_FOLDER),
        class_words=recipe.prior_class,
        count=recipe.prior_count,
        size=size,
        step=step,
        buckets=recipe.buckets,
    )


def record_class_pictures(run: Run, present: Pictures) -> None:
    """Record in the run's folder which class pictures it trains on."""
    write_file(_record(run), present.sha256.encode())


def check_unchanged(run: Run, prior: Prior, present: Pictures) -> None:
    """Raise BadInput where the class pictures are not those that the run was started with."""
    record = _record(run)
    if record.exists() and present.sha256 != record.read_text():
        raise BadInput(
            f"the class pictures in {prior.folder} are no longer those that {run.folder} "
            "was started with: put them back, or start a new training"
        )


def _record(run: Run) -> Path:
    return run.folder / "prior.sha256"


def _as_png(picture: "Image") -> bytes:
    """The bytes of a picture's PNG, with the texts that hold its recipe."""
    texts, data = PngInfo(), BytesIO()
    for key, text in picture.info.items():
        if isinstance(key, str) and isinstance(text, str):
            texts.add_text(key, text)
    picture.save(data, "PNG", pnginfo=texts)
    return data.getvalue()
