"""Short trainings that the tests of every kind share, and what must hold of all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import trainers
from studio import Adapter, Base
from studio.dataset.folders import Folder, Sources
from studio.requests.training import TrainingRequest
from trainers import Finished, Kind, Step

TRIGGER = "a sks robot"
# How near the float32 files of two trainings in float64 come (see the fixture float64).
NEAR = {"atol": 1e-5, "rtol": 0, "check_dtype": False}
SHORT = {"steps": 6, "batch": 2, "lr": 1e-3, "save_every": 0}


def lora_request(
    folder: Path, *, init: Path | None = None, prior_pictures: Path | None = None, **recipe: object
) -> TrainingRequest:
    """A LoRA training of the pictures in a folder, not begun."""
    return TrainingRequest(
        "lora",
        TRIGGER,
        (Folder(folder),),
        init=None if init is None else str(init),
        prior_pictures=prior_pictures,
        recipe=recipe,
    )


def learned(
    kind: Kind, base: Base, folder: Sources, run: Path, **options
) -> tuple[Adapter, list[float]]:
    """The adapter of a training to its end, and the loss of every step."""
    given = {**SHORT, **options}
    events = list(trainers.train(kind, base, folder, trigger=TRIGGER, run=run, **given))
    assert isinstance(events[-1], Finished)
    return events[-1].adapter, [event.loss for event in events if isinstance(event, Step)]


@contextmanager
def assert_lent(base: Base) -> Iterator[None]:
    """The base comes back bit-identical, in its own storage, with nothing left on its layers."""
    modules = (base.unet, *base.text_encoders)
    before = [
        (weight, weight.clone(), weight.data_ptr())
        for module in modules
        for weight in (*module.parameters(), *module.buffers())
    ]
    yield
    for weight, bits, storage in before:
        assert torch.equal(weight, bits)
        assert weight.data_ptr() == storage
        assert weight.grad is None
    parts = [part for module in modules for part in module.modules()]
    assert not any("forward" in vars(part) for part in parts)


def assert_resumes(
    kind: Kind, base: Base, folder: Sources, tmp_path: Path, *, after: int = 3, **options
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
