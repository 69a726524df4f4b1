"""A training for TensorBoard: `tensorboard --logdir runs` shows all runs beside each other.

Losses, learning rates and sample pictures go into an event file in the run's folder. log.jsonl has
the same numbers for programs and is written anyway; this is for who looks on.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from studio.errors import BadInput
from studio.requests.recipe import Recipe
from trainers.engine.progress import Progress, Sampled, Step

if TYPE_CHECKING:
    from trainers.engine.loop import Training

__all__ = ["rates", "require_board", "shown"]

SECONDS = 10  # after which what was written can be seen


def require_board(recipe: Recipe) -> None:
    """BadInput with the line that installs TensorBoard, where it is asked for and not there."""
    if recipe.tensorboard and find_spec("tensorboard") is None:
        raise BadInput(
            "tensorboard is asked for but not installed: run `pip install tensorboard`, or leave "
            "it out"
        )


def shown(training: "Training", events: Generator[Progress, None, None]) -> Iterator[Progress]:
    """The events as they come, each written for TensorBoard where the recipe asks for it."""
    if not training.recipe.tensorboard:
        yield from events
        return
    from torch.utils.tensorboard import SummaryWriter

    # Of a run that was cut off, the steps behind its checkpoint come again.
    folder, first = str(training.job.run.folder), training.done + 1
    with (
        closing(events),
        SummaryWriter(folder, purge_step=first, flush_secs=SECONDS) as board,
    ):
        for event in events:
            if isinstance(event, Step):
                board.add_scalar("loss", event.loss, event.step)
                for name, rate in rates(training, event.lr).items():
                    board.add_scalar(f"learning rate/{name}", rate, event.step)
            if isinstance(event, Sampled):
                for number, path in enumerate(event.paths):
                    name = f"samples/{number} {training.job.prompts()[number]}"
                    with Image.open(path) as picture:
                        pixels = np.asarray(picture.convert("RGB"))
                    board.add_image(name, pixels, event.step, dataformats="HWC")
            yield event


def rates(training: "Training", rate: float) -> dict[str, float]:
    """What learns at which rate. rate: the step's."""
    recipe, job = training.recipe, training.job
    # Prodigy's own estimate, by which it multiplies all rates.
    rate *= training.optimizer.param_groups[0].get("d", 1.0)
    found = {"unet": rate}
    if any(name.startswith("text_encoder") for name in job.deltas):
        found["text encoders"] = rate * recipe.text_lr / recipe.lr
    if job.embeddings:
        found["new words"] = rate * recipe.token_lr / recipe.lr
    return found
