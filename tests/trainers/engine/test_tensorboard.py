"""What TensorBoard is given of a training, read back from its event files."""

import importlib.util
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import trainers
from studio import Base
from studio.errors import BadInput
from tests.trainers.learning import SHORT, TRIGGER, learned, lora_request
from trainers import LoRA, Step

ASKED = {"tensorboard": True, "sample_every": 2, "schedule": "linear"}


def drawn(prompt: str, seed: int) -> Image.Image:
    """A picture of one colour, the seed's."""
    return Image.new("RGB", (8, 6), (10 * seed, 20, 30))


def board(run: Path) -> EventAccumulator:
    """All that the event files of a run hold."""
    return EventAccumulator(str(run)).Reload()


def test_losses_rates_and_samples_are_there(sd1: Base, folder: Path, tmp_path: Path) -> None:
    run, prompts = tmp_path / "run", ("a robot", "a dog")
    options = {**ASKED, "text_encoders": True, "text_lr": 1e-4, "sample_prompts": prompts}
    _, losses = learned(LoRA(rank=2), sd1, folder, run, draw=drawn, **options)
    found = board(run)
    assert [one.step for one in found.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [one.value for one in found.Scalars("loss")] == pytest.approx(losses)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    rates = [one.value for one in found.Scalars("learning rate/unet")]
    assert rates == pytest.approx([line["lr"] for line in log])
    read = [one.value for one in found.Scalars("learning rate/text encoders")]
    assert read == pytest.approx([rate * 1e-4 / SHORT["lr"] for rate in rates])
    for seed, prompt in enumerate(prompts):
        samples = found.Images(f"samples/{seed} {prompt}")
        assert [one.step for one in samples] == [2, 4, 6]
        with Image.open(BytesIO(samples[0].encoded_image_string)) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(drawn(prompt, seed)))


def test_steps_that_come_again_are_shown_once(sd1: Base, folder: Path, tmp_path: Path) -> None:
    run, options = tmp_path / "run", {**SHORT, "tensorboard": True, "save_every": 2}
    first = trainers.train(LoRA(rank=2), sd1, folder, trigger=TRIGGER, run=run, **options)
    for event in first:
        if isinstance(event, Step) and event.step == 3:
            break
    first.close()
    again = run / "checkpoints" / "step-000003"
    again.rename(tmp_path / "lost")  # as if it had been cut off before it could be written
    losses = [one.loss for one in trainers.resume(run, sd1) if isinstance(one, Step)]
    found = board(run).Scalars("loss")
    assert [one.step for one in found] == [1, 2, 3, 4, 5, 6]
    assert [one.value for one in found][2:] == pytest.approx(losses)


def test_nothing_is_written_unasked(sd1: Base, folder: Path, tmp_path: Path) -> None:
    learned(LoRA(rank=2), sd1, folder, tmp_path / "run", steps=1)
    assert not list((tmp_path / "run").glob("events*"))


def test_without_tensorboard_the_line_that_installs_it(
    sd1: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "trainers.engine.run.tensorboard.find_spec",
        lambda name: None if name == "tensorboard" else there(name),
    )
    with pytest.raises(BadInput, match="pip install tensorboard"):
        learned(LoRA(rank=2), sd1, folder, tmp_path / "run", tensorboard=True)
    with pytest.raises(BadInput, match="pip install tensorboard"):
        trainers.check(lora_request(folder, tensorboard=True))
    assert not (tmp_path / "run").exists()
