"""The loop against peft and diffusers, and against itself: resumed, accumulated, recomputed."""

import json
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

import trainers
from studio import Base
from studio.errors import BadInput
from studio.training_asks import ask_training
from tests.trainers.conftest import make_pictures
from tests.trainers.learning import NEAR, assert_lent
from tests.trainers.reference import peft_training
from trainers import Finished, LoRA, Progress, Sampled, Saved, Started, Step
from trainers.engine.data.randomness import generator_for
from trainers.engine.kind import new_deltas

TRIGGER = "a sks robot"
SHORT = {"steps": 6, "batch": 2, "lr": 1e-3, "schedule": "constant", "save_every": 0}

KEEPING = {**SHORT, "save_every": 1, "keep": 2}


def learn(
    base: Base, folder: Path, run: Path, kind: LoRA | None = None, **options
) -> list[Progress]:
    """Train to the end."""
    kind = kind or LoRA(rank=4)
    return list(
        trainers.train(kind, base, folder, trigger=TRIGGER, run=run, **{**SHORT, **options})
    )


def losses(progress: Iterable[Progress]) -> list[float]:
    return [event.loss for event in progress if isinstance(event, Step)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter.safetensors")


def assert_close(run: Path, other: Path) -> None:
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], **NEAR)


@pytest.mark.parametrize("kind", [LoRA(rank=4, alpha=2), LoRA(rank=4, dora=True)])
def test_twenty_steps_equal_peft_on_the_unet_of_diffusers(
    sdxl64: Base, sdxl_folder: Path, folder: Path, tmp_path: Path, kind: LoRA
) -> None:
    """Losses and weights, the reference drawing its noise as documented."""
    options = {"steps": 20, "batch": 2, "clip": 1.0, "min_snr": 5.0, "seed": 3}
    ours = losses(learn(sdxl64, folder, tmp_path / "run", kind, **options))
    start = new_deltas(kind, sdxl64, generator=generator_for(3, "start"))
    theirs, expected = peft_training(sdxl_folder, folder, kind, start, steps=20)
    assert ours == pytest.approx(theirs, abs=1e-5)
    trained = weights(tmp_path / "run")
    assert len(trained) == len(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[f"unet.{name}"], tensor, **NEAR)


def test_progress_tells_what_happens_in_order(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    events = learn(sdxl, folder, tmp_path / "run", save_every=4)
    started, finished = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (started.steps, started.done, started.examples) == (6, 0, 3)
    assert [skipped.path.name for skipped in started.skipped] == ["broken.jpg"]
    encoded = [event for event in events if isinstance(event, trainers.Encoded)]
    assert [event.done for event in encoded] == [1, 2, 3, 4, 5]
    assert {event.total for event in encoded} == {5}
    assert [event.step for event in events if isinstance(event, Step)] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events if isinstance(event, Saved)] == [4]
    assert finished.path == tmp_path / "run" / "adapter.safetensors"
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in log] == losses(events)
    recipe = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())
    assert recipe["trigger"] == TRIGGER
    assert recipe["options"]["rank"] == 4
    assert recipe["recipe"]["batch"] == 2


def test_a_seed_repeats_to_the_byte_and_another_does_not(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    kind = LoRA(rank=4, dropout=0.3, targets="all")
    options = {"caption_dropout": 0.3, "flip": True, "crops": 2}
    first = learn(sdxl, folder, tmp_path / "first", kind, **options)
    torch.manual_seed(99)  # nothing may hang on the global state
    again = learn(sdxl, folder, tmp_path / "again", kind, **options)
    other = learn(sdxl, folder, tmp_path / "other", kind, seed=1, **options)
    assert losses(first) == losses(again) != losses(other)
    files = [(tmp_path / run / "adapter.safetensors").read_bytes() for run in ("first", "again")]
    assert files[0] == files[1]


def test_samples_and_a_checkpoint_are_made_when_asked_for_and_change_nothing(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    learn(sdxl, folder, tmp_path / "plain")
    picture = Image.new("RGB", (8, 8))
    events = list[Progress]()
    for event in trainers.train(
        LoRA(rank=4),
        sdxl,
        folder,
        trigger=TRIGGER,
        run=tmp_path / "asked",
        draw=lambda prompt, seed: picture,
        **SHORT,
    ):
        events.append(event)
        if isinstance(event, Step) and event.step in (2, 3):
            ask_training(tmp_path / "asked", "sample")
            ask_training(tmp_path / "asked", "sample")
        if isinstance(event, Step) and event.step == 4:
            ask_training(tmp_path / "asked", "save")
    assert [one.step for one in events if isinstance(one, Sampled)] == [2, 3, 6]
    assert [one.step for one in events if isinstance(one, Saved)] == [4]
    ours, plain = (weights(tmp_path / run) for run in ("asked", "plain"))
    assert all(torch.equal(tensor, plain[name]) for name, tensor in ours.items())


def test_a_resumed_run_ends_in_the_same_bytes(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    kind = LoRA(rank=4, dropout=0.3)
    options = {
        "steps": 8,
        "accumulation": 2,
        "schedule": "cosine",
        "warmup": 2,
        "caption_dropout": 0.3,
        "flip": True,
    }
    whole = learn(sdxl, folder, tmp_path / "whole", kind, **options)
    run = trainers.train(
        kind, sdxl, folder, trigger=TRIGGER, run=tmp_path / "cut", **{**SHORT, **options}
    )
    with assert_lent(sdxl):
        for event in run:
            if isinstance(event, Step) and event.step == 3:
                break
        run.close()  # what Ctrl-C comes to
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-000003"]
    torch.manual_seed(99)
    rest = list(trainers.resume(tmp_path / "cut", sdxl))
    assert isinstance(rest[0], Started)
    assert rest[0].done == 3
    assert losses(rest) == losses(whole)[3:]
    cut, undisturbed = (tmp_path / name / "adapter.safetensors" for name in ("cut", "whole"))
    assert cut.read_bytes() == undisturbed.read_bytes()
    log = (tmp_path / "cut" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in log] == losses(whole)


def test_a_damaged_log_does_not_keep_a_run_from_going_on(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    """A power cut leaves half a line, zeros or an empty object at its end."""
    whole = learn(sdxl, folder, tmp_path / "run", steps=3, save_every=2)
    log = tmp_path / "run" / "log.jsonl"
    for damage in ('{"step": 3, "lo', "\0" * 40, "{}\n"):
        (tmp_path / "run" / "adapter.safetensors").unlink()
        log.write_text("".join(f"{line}\n" for line in log.read_text().splitlines()[:2]) + damage)
        rest = list(trainers.resume(tmp_path / "run", sdxl))
        assert isinstance(rest[0], Started)
        assert rest[0].remarks == ("Left out 1 line of log.jsonl that cannot be read.",)
        assert [json.loads(line)["loss"] for line in log.read_text().splitlines()] == losses(whole)


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    """Steps after the checkpoint are lost with the process, and done again the same."""
    whole = learn(sdxl, folder, tmp_path / "run", save_every=2)
    final = (tmp_path / "run" / "adapter.safetensors").read_bytes()
    (tmp_path / "run" / "adapter.safetensors").unlink()
    (tmp_path / "run" / "checkpoints" / ".step-half").mkdir()
    rest = list(trainers.resume(tmp_path / "run", sdxl))
    assert losses(rest) == losses(whole)[4:]
    assert (tmp_path / "run" / "adapter.safetensors").read_bytes() == final
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4, 5, 6]


def test_stopping_after_the_last_step_loses_nothing(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    short = {**SHORT, "steps": 2}
    learn(sdxl, folder, tmp_path / "whole", **short)
    run = trainers.train(LoRA(rank=4), sdxl, folder, trigger=TRIGGER, run=tmp_path / "cut", **short)
    for event in run:
        if isinstance(event, Step) and event.step == 2:
            break
    run.close()
    assert isinstance(list(trainers.resume(tmp_path / "cut", sdxl))[-1], Finished)
    ends = [(tmp_path / run / "adapter.safetensors").read_bytes() for run in ("whole", "cut")]
    assert ends[0] == ends[1]


def test_a_finished_run_is_not_resumed_or_written_over(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    learn(sdxl, folder, tmp_path / "run", steps=1)
    with pytest.raises(BadInput, match="is finished"):
        trainers.resume(tmp_path / "run", sdxl)
    with pytest.raises(BadInput, match="holds a training already"):
        learn(sdxl, folder, tmp_path / "run")


def test_other_pictures_or_another_base_are_not_resumed(
    sdxl: Base, sd1: Base, folder: Path, tmp_path: Path
) -> None:
    run = trainers.train(LoRA(rank=4), sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", **SHORT)
    next(run)
    run.close()
    with pytest.raises(BadInput, match="was started on the base"):
        trainers.resume(tmp_path / "run", sd1)
    (folder / "1.txt").write_text("another caption")
    with pytest.raises(BadInput, match="no longer those"):
        trainers.resume(tmp_path / "run", sdxl)


def test_accumulated_batches_equal_a_big_one(sdxl64: Base, folder: Path, tmp_path: Path) -> None:
    big = learn(sdxl64, folder, tmp_path / "big", batch=4)
    small = learn(sdxl64, folder, tmp_path / "small", batch=1, accumulation=4)
    assert losses(small) == pytest.approx(losses(big), abs=1e-5)
    assert_close(tmp_path / "small", tmp_path / "big")


def test_recomputing_activations_changes_nothing(
    sdxl64: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, calls = LoRA(rank=4, dropout=0.3), []
    kept = learn(sdxl64, folder, tmp_path / "kept", kind)
    real = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        "torch.utils.checkpoint.checkpoint", lambda *a, **k: (calls.append(1), real(*a, **k))[1]
    )
    recomputed = learn(sdxl64, folder, tmp_path / "recomputed", kind, checkpointing=True)
    assert calls
    assert losses(recomputed) == pytest.approx(losses(kept), abs=1e-6)
    assert_close(tmp_path / "recomputed", tmp_path / "kept")
    assert not sdxl64.unet.is_gradient_checkpointing


def test_the_disk_cache_changes_nothing(
    sdxl: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(sdxl, folder, tmp_path / "memory", cache="memory", steps=2)
    learn(sdxl, folder, tmp_path / "disk", cache="disk", steps=2)
    for name in ("posterior", "encode_text"):
        monkeypatch.setattr(sdxl, name, None)  # nothing is encoded a second time
    learn(sdxl, folder, tmp_path / "found", cache="disk", steps=2)
    for name in ("disk", "found"):
        for key, tensor in weights(tmp_path / name).items():
            assert torch.equal(tensor, weights(tmp_path / "memory")[key])


def test_half_precision_stays_near(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    full = losses(learn(sdxl, folder, tmp_path / "full"))
    half = losses(learn(sdxl, folder, tmp_path / "half", precision="bf16"))
    assert half == pytest.approx(full, rel=0.05)
    assert half != full


def test_pictures_of_several_shapes_train_together(sd1: Base, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "mixed", sides=[(64, 64), (256, 64), (64, 256)])
    assert len(losses(learn(sd1, folder, tmp_path / "run", size=128, lr=1e-2))) == 6


@pytest.mark.quality
def test_it_learns(sdxl: Base, tmp_path: Path) -> None:
    """On one picture and one step's noise the loss falls."""
    folder = make_pictures(tmp_path / "one", sides=[(64, 64)])
    kind = LoRA(rank=16, targets="all")
    found = losses(learn(sdxl, folder, tmp_path / "run", kind, steps=60, lr=3e-3, min_snr=0))
    assert np.mean(found[-10:]) < 0.9 * np.mean(found[:10])


def test_samples_are_drawn_with_the_deltas_attached(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    asked = []

    def draw(prompt: str, seed: int) -> Image.Image:
        asked.append((prompt, seed))
        assert not torch.is_grad_enabled()
        torch.manual_seed(seed)  # a renderer may use the global state: the training does not
        text = sdxl.encode_text([prompt])
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        pixels = sdxl.decode(sdxl.predict(latents, 500, text))[0]
        return Image.fromarray((pixels.permute(1, 2, 0).numpy() * 255).astype(np.uint8))

    options = {"sample_every": 3, "sample_prompts": ("a red robot", "a cat"), "lr": 1e-2}
    kind = LoRA(rank=4, dropout=0.5)
    progress = trainers.train(
        kind, sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", draw=draw, **{**SHORT, **options}
    )
    events = list(progress)
    sampled = [event for event in events if isinstance(event, Sampled)]
    assert [event.step for event in sampled] == [3, 6]
    assert asked == [("a red robot", 0), ("a cat", 1)] * 2
    drawn = [Image.open(event.paths[0]).tobytes() for event in sampled]
    assert drawn[0] != drawn[1]
    assert isinstance(events[-1], Finished)
    assert events[-1].adapter.preview is not None
    plain = learn(sdxl, folder, tmp_path / "plain", kind, lr=1e-2)
    assert losses(plain) == losses(events)


def test_a_lost_loss_stops_and_keeps_the_last_good_checkpoint(
    sdxl: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, calls = sdxl.predict, []

    def lost(*args, **kwargs):
        calls.append(1)
        return predict(*args, **kwargs) * (math.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(sdxl, "predict", lost)
    with pytest.raises(BadInput, match=r"at step 5: lower lr .*checkpoint is .*step-000002"):
        learn(sdxl, folder, tmp_path / "run", save_every=2, steps=9)
    monkeypatch.setattr(sdxl, "predict", predict)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000004"]


def test_weights_that_blew_up_are_not_called_good(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"checkpoint is .*step-|no checkpoint") as lost:
        learn(sdxl, folder, tmp_path / "run", lr=1e30, save_every=1, steps=9, clip=0.0)
    step = int(str(lost.value).partition("at step ")[2].partition(":")[0])
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        assert int(path.name[5:]) < step - 1 or str(path) not in str(lost.value)


def test_old_checkpoints_go_when_the_new_one_is_whole(
    sdxl: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = []
    for event in trainers.train(
        LoRA(rank=4), sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", **KEEPING
    ):
        if isinstance(event, Saved):
            there.append(sorted(p.name[-1] for p in (tmp_path / "run/checkpoints").iterdir()))
    assert there == [["1"], ["1", "2"], ["2", "3"], ["3", "4"], ["4", "5"]]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run = trainers.train(
        LoRA(rank=4), sdxl, folder, trigger=TRIGGER, run=tmp_path / "full", **KEEPING
    )
    with monkeypatch.context() as patched, pytest.raises(BadInput, match=r"(?i)no space"):
        for event in run:
            if isinstance(event, Step) and event.step == 3:
                patched.setattr("os.replace", full)
    kept = sorted(path.name[-1] for path in (tmp_path / "full" / "checkpoints").iterdir())
    assert kept == ["1", "2"]
    assert [path.name for path in (tmp_path / "full").rglob(".*")] == [".lock"]  # no half file
    assert not (tmp_path / "full" / "adapter.safetensors").exists()


def test_an_adapter_that_finds_no_place_is_said_to_be_in_its_run(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "there" / "robot.safetensors"
    run = trainers.train(
        LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", out=out, steps=2
    )
    with pytest.raises(BadInput, match=r"robot.safetensors cannot be .*it is .*run/adapter"):
        for event in run:
            if isinstance(event, Step) and event.step == 2:
                out.parent.write_text("a file by now")
    assert (tmp_path / "run" / "adapter.safetensors").is_file()


def test_bad_wishes_are_refused_before_the_start(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    def start(**options) -> None:
        given = {"trigger": TRIGGER, "run": tmp_path / "run", **options}
        trainers.train(LoRA(rank=4), sdxl, folder, **given)

    for options, said in (
        ({"trigger": " "}, "trigger is empty"),
        ({"stpes": 3}, "did you mean 'steps'"),
        ({"precision": "fp16"}, "on a GPU only"),
        ({"out": tmp_path / "robot.pt"}, r"is a \.safetensors file"),
    ):
        with pytest.raises(BadInput, match=said):
            start(**options)
    with pytest.raises(BadInput):
        trainers.train(LoRA(), sdxl, tmp_path / "nothing here", trigger=TRIGGER)
    assert not (tmp_path / "run").exists()


def test_out_gets_the_adapter_too(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapters" / "robot.safetensors"
    events = list(
        trainers.train(
            LoRA(rank=4), sdxl, folder, trigger=TRIGGER, run=tmp_path / "r", out=out, steps=1
        )
    )
    assert isinstance(events[-1], Finished)
    assert events[-1].path == out
    assert out.read_bytes() == (tmp_path / "r" / "adapter.safetensors").read_bytes()
    StableDiffusionXLPipeline.from_pretrained(sdxl.source).load_lora_weights(out)
