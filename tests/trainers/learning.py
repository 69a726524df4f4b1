"""Short trainings that the tests of every kind share, and what must hold of all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import trainers
from studio import Adapter, Base
from trainers import Finished, Kind, Step

TRIGGER = "a sks robot"
SHORT = {"steps": 6, "batch": 2, "lr": 1e-3, "save_every": 0}


def learned(
    kind: Kind, base: Base, folder: Path, run: Path, **options
) -> tuple[Adapter, list[float]]:
    """The adapter of a training to its end, and the loss of every step."""
    given = {**SHORT, **options}
    events = list(trainers.train(kind, base, folder, trigger=TRIGGER, run=run, **given))
    assert isinstance(events[-1], Finished)
    return events[-1].adapter, [event.loss for event in events if isinstance(event, Step)]


@contextmanager
def assert_lent(base: Base) -> Iterator[None]:
    """The base comes back bit-identical, in its own storage, with nothing left on its layers."""
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    storages = {name: weight.data_ptr() for name, weight in base.unet.state_dict().items()}
    yield
    for name, weight in base.unet.state_dict().items():
        assert torch.equal(weight, before[name]), name
        assert weight.data_ptr() == storages[name], name
    assert not any("forward" in vars(layer) for layer in base.layers().values())
    assert all(weight.grad is None for weight in base.unet.parameters())


def assert_resumes(
    kind: Kind, base: Base, folder: Path, tmp_path: Path, *, after: int = 3, **options
) -> None:
    """A training cut off after a step and resumed ends in the bytes and losses of one that ran."""
    _, whole = learned(kind, base, folder, tmp_path / "whole", **options)
    given = {**SHORT, **options}
    run = trainers.train(kind, base, folder, trigger=TRIGGER, run=tmp_path / "cut", **given)
    for event in run:
        if isinstance(event, Step) and event.step == after:
            break
    run.close()
    torch.manual_seed(99)  # nothing may hang on the global state
    rest = [event for event in trainers.resume(tmp_path / "cut", base) if isinstance(event, Step)]
    assert [event.loss for event in rest] == whole[after:]
    cut, undisturbed = (tmp_path / run / "adapter.safetensors" for run in ("cut", "whole"))
    assert cut.read_bytes() == undisturbed.read_bytes()
