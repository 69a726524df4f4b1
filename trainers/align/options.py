"""How to align a base with a reward. No PyTorch here."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from studio.requests.recipe import AtLeastOne, Positive
from studio.requests.validation import check, option


@dataclass(frozen=True)
class Alignment:
    """The options of an alignment. Raises BadInput that names every field out of range."""

    steps: AtLeastOne = option(60, "optimiser steps")
    batch: AtLeastOne = option(4, "pictures a step")
    lr: Positive = option(1e-3, "learning rate")
    rank: AtLeastOne = option(8, "rank of the LoRA")
    sampling_steps: AtLeastOne = option(12, "denoising steps of a picture")
    last: AtLeastOne = option(2, "steps, the last ones, that the gradient goes through")
    guidance: Annotated[float, Ge(1)] = option(5.0, "guidance scale")
    limit: Positive = option(
        0.4, "how far a picture may move from the base's own, as a share of its latents"
    )
    pictures: AtLeastOne = option(32, "different pictures to learn from; each is drawn many times")
    seed: Annotated[int, Ge(0)] = option(0, "random seed")

    def __post_init__(self) -> None:
        check(self)
