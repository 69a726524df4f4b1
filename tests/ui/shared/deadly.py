"""What workers of a Ray cluster are made to do in tests: to die, or to sleep until they may not."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compose import Group
    from studio.requests.shot import Shot
    from studio.requests.training import TrainingRequest


def no_dog(
    source: str, shots: "Sequence[Shot]", group: "Group", loading: Mapping[str, object]
) -> object:
    """A group of a batch, unless the second plain dog is to be in it."""
    for shot in (shots[number] for number in group.numbers):
        if (shot.prompt, shot.seed, shot.adapters) == ("a dog", 2, ()):
            os.kill(os.getpid(), signal.SIGKILL)
    from ui.batch.ray_groups import _make

    return _make(source, shots, group, loading)


def sleep(*arguments: object) -> None:
    """Sleep, and leave word in this folder when it was interrupted."""
    Path(f"asleep-{os.getpid()}").touch()
    try:
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        Path(f"interrupted-{os.getpid()}").touch()
        raise


def die_once(request: "TrainingRequest", run: Path) -> None:
    """A training whose first worker dies right after a checkpoint."""
    from trainers import Saved
    from ui.sweep import runner as _sweep

    if run.exists():
        return _sweep._train_task(request, run)
    for event in _sweep.start_or_resume(replace(request, run=run), _sweep.BaseCache().open):
        if isinstance(event, Saved):
            os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("there was no checkpoint")
