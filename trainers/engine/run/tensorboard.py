"""Log a training for TensorBoard: `tensorboard --logdir runs` shows all runs beside each other.

Losses, learning rates and samples go into an event file in the run's folder. This is for people who
watch; log.jsonl, which is always written, has the same numbers for programs.
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
    """Raise BadInput, with the command that installs it, where TensorBoard is missing."""
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
    """Pass the events on, and write each to TensorBoard's file.

    first_step: steps from here on that the file has already are dropped: a resumed run takes them
    again. learning_rates: from a step's rate to the rates of all parts that learn, by name.
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
