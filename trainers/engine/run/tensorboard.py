"""A training for TensorBoard: `tensorboard --logdir runs` shows all runs beside each other.

Losses, learning rates and sample pictures go into an event file in the run's folder. log.jsonl has
the same numbers for programs and is always written; this is for people who watch.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from studio.errors import BadInput
from studio.requests.recipe import Recipe
from trainers.engine.progress import Progress, Sampled, Step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 10


def check_tensorboard(recipe: Recipe) -> None:
    """BadInput with the line that installs TensorBoard, where it is asked for and missing."""
    if recipe.tensorboard and find_spec("tensorboard") is None:
        raise BadInput(
            "tensorboard is asked for but not installed: run `pip install tensorboard`, or leave "
            "it out"
        )


def write_events(
    events: Generator[Progress, None, None],
    folder: Path,
    *,
    first_step: int,
    prompts: Sequence[str],
    learning_rates: Callable[[float], Mapping[str, float]],
) -> Generator[Progress, None, None]:
    """The events as they come, each written to TensorBoard's file.

    first_step: steps of a cut-off run from here on are dropped, since they come again.
    learning_rates: from the step's rate to that of every part that learns, by name.
    """
    from torch.utils.tensorboard import SummaryWriter

    with (
        closing(events),
        SummaryWriter(str(folder), purge_step=first_step, flush_secs=FLUSH_SECONDS) as writer,
    ):
        for event in events:
            if isinstance(event, Step):
                for name, number in {"loss": event.loss, **event.measured}.items():
                    writer.add_scalar(name, number, event.step)
                for name, rate in learning_rates(event.lr).items():
                    writer.add_scalar(f"learning rate/{name}", rate, event.step)
            if isinstance(event, Sampled):
                _write_samples(writer, event, prompts)
            yield event


def _write_samples(writer: "SummaryWriter", event: Sampled, prompts: Sequence[str]) -> None:
    for number, (path, prompt) in enumerate(zip(event.paths, prompts, strict=True)):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        writer.add_image(f"samples/{number} {prompt}", pixels, event.step, dataformats="HWC")
