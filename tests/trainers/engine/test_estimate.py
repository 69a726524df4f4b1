"""What a training is said to take, held to what passes of it really keep and multiply."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import trainers
from studio import Base
from studio.adapters.delta import Delta, attach
from studio.bases.prompts import TextEmbedding
from studio.bases.real_config import real_config
from studio.cost.speed import Speed
from studio.errors import BadInput
from tests.trainers.learning import SHORT, learned
from trainers import BLoRA, DiffuseKronA, Kind, LoRA, Recipe, SaRA
from trainers.engine.estimate.memory_model import training_cost
from trainers.engine.estimate.step_times import (
    find_step_time,
    is_round,
    settings_of,
    write_step_time,
)
from trainers.engine.kind import new_deltas

KINDS = [LoRA(rank=4), DiffuseKronA(), SaRA(budget=3000), BLoRA(rank=4)]


def started(kind: Kind, base: Base, **options: bool) -> dict[str, Delta]:
    generator = torch.Generator().manual_seed(0)
    return new_deltas(kind.for_base(base), base, generator=generator, **options)


def really(base: Base, batch: int) -> Tensor:
    """The UNet's prediction for a batch of the base's own size, as in a training."""
    side = base.size // base.latent_factor
    config = base.unet.config
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    text = TextEmbedding(
        torch.randn(batch, 77, config["cross_attention_dim"]), torch.randn(batch, pooled)
    )
    at = torch.zeros(batch, dtype=torch.long)
    return base.predict(torch.randn(batch, 4, side, side), at, text, time_ids=torch.zeros(batch, 6))


@contextmanager
def keeping(base: Base, deltas: dict[str, Delta]) -> Iterator[dict[int, int]]:
    """What autograd keeps of real tensors: bytes by their place, the weights' own left out."""
    modules = (base.unet, *deltas.values())
    own = {t.data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    kept: dict[int, int] = {}
    held = []

    def note(one: Tensor) -> Tensor:
        storage = one.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return one

    with saved_tensors_hooks(note, lambda one: one):
        yield kept


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_what_a_real_pass_keeps_and_multiplies(kind: Kind, sdxl: Base) -> None:
    deltas = started(kind, sdxl)
    sdxl.unet.requires_grad_(False).train()
    said = training_cost(sdxl, deltas, Recipe(batch=2))
    with attach(sdxl.layers(), deltas):
        with keeping(sdxl, deltas) as kept:
            really(sdxl, batch=2)
        # PyTorch's own count knows attention written out only.
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as there:
                predicted = really(sdxl, batch=2)
            with FlopCounterMode(display=False) as back:
                predicted.square().mean().backward()
    assert said.saved == sum(kept.values())
    assert said.forward == pytest.approx(there.get_total_flops(), rel=0.01)
    assert said.backward == pytest.approx(back.get_total_flops(), rel=0.07)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_what_a_real_pass_makes(kind: Kind, sdxl: Base) -> None:
    deltas = started(kind, sdxl)
    sdxl.unet.requires_grad_(False).train()
    said = training_cost(sdxl, deltas, Recipe(batch=2))
    seen = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with attach(sdxl.layers(), deltas), seen:
        really(sdxl, batch=2)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in seen.events() or ())
    assert said.written == pytest.approx(allocated, rel=0.02)


def test_half_precision_keeps_less_as_it_really_does(sdxl: Base) -> None:
    deltas = started(LoRA(rank=4), sdxl)
    sdxl.unet.requires_grad_(False).train()
    mixed = torch.autocast("cpu", dtype=torch.bfloat16)
    with attach(sdxl.layers(), deltas), keeping(sdxl, deltas) as kept, mixed:
        really(sdxl, batch=2)
    said = training_cost(sdxl, deltas, Recipe(batch=2, precision="bf16"))
    # The fake norms have their means in half precision, the real ones have not.
    assert said.saved == pytest.approx(sum(kept.values()), rel=0.005)


def test_checkpoints_keep_less_and_multiply_more(sd1: Base) -> None:
    deltas = started(LoRA(rank=4), sd1)
    plain, again = (training_cost(sd1, deltas, Recipe(checkpointing=c)) for c in (False, True))
    assert again.saved < 0.5 * plain.saved
    assert again.backward == plain.backward + plain.forward
    assert again.written > plain.written


def test_text_encoders_and_new_words_are_read_at_every_step(sd1: Base) -> None:
    plain = training_cost(sd1, started(LoRA(rank=4), sd1), Recipe())
    deltas = started(LoRA(rank=4), sd1, text_encoders=True)
    encoders = training_cost(sd1, deltas, Recipe(text_encoders=True))
    words = training_cost(sd1, started(LoRA(rank=4), sd1), Recipe(new_tokens=2))
    assert encoders.saved > words.saved > plain.saved
    assert encoders.forward > words.forward > plain.forward


def test_a_run_says_what_the_next_of_its_settings_takes(
    sd1: Base, folder: Path, tmp_path: Path
) -> None:
    runs, kind = tmp_path / "runs", LoRA(rank=2)
    learned(kind, sd1, folder, runs / "one")
    after = trainers.estimate(kind, sd1, runs=runs, drawing=False, **SHORT | {"steps": 600})  # pyright: ignore
    log = (runs / "one" / "log.jsonl").read_text().splitlines()
    step = median(json.loads(line)["seconds"] for line in log)
    assert after.source == "same"
    assert after.step == pytest.approx(step)
    assert after.seconds == pytest.approx(600 * step)


def test_a_run_says_nothing_of_other_settings(tmp_path: Path, sd1: Base) -> None:
    runs, kind, recipe = tmp_path, LoRA(rank=2).for_base(sd1), Recipe()
    settings = settings_of(kind, sd1, recipe, prior=False)
    write_step_time(runs / "one", settings, [0.5] * 5)
    assert find_step_time(runs, settings_of(kind, sd1, Recipe(steps=9, lr=1.0), prior=False)) == 0.5
    own_size = settings_of(kind, sd1, Recipe(size=64), prior=False)
    assert find_step_time(runs, own_size) == 0.5
    assert find_step_time(runs, settings_of(kind, sd1, Recipe(batch=2), prior=False)) is None
    assert find_step_time(runs, settings_of(kind, sd1, recipe, prior=True)) is None
    other = settings_of(LoRA(rank=2, targets="all"), sd1, recipe, prior=False)
    assert find_step_time(runs, other) is None
    write_step_time(runs / "two", settings, [0.1] * 4)  # too few to say anything
    assert find_step_time(runs, settings) == 0.5
    (runs / "one" / "cost.json").write_text("{")
    assert find_step_time(runs, settings) is None


def test_more_pictures_and_samples_take_longer(sd1: Base, tmp_path: Path) -> None:
    def seconds(**given: object) -> float:
        found = trainers.estimate(LoRA(rank=2), sd1, runs=tmp_path, steps=10, **given)  # pyright: ignore
        return found.seconds / found.step

    assert seconds(drawing=False) == pytest.approx(10)
    assert seconds(drawing=False, pictures=100) > 10
    one, five_of_two = seconds() - 10, seconds(sample_every=2, sample_prompts=("a", "b")) - 10
    assert five_of_two == pytest.approx(10 * one)


def test_memory_of_a_real_configuration(tmp_path: Path) -> None:
    base, kind = real_config("sd15"), SaRA(budget=50_000_000)
    said = trainers.estimate(kind, base, runs=tmp_path, drawing=False, batch=1)
    # Measured by tests.benchmarks.memory, and the VAE's and the text encoder's 0.83 GB.
    assert said.bytes / 1e9 == pytest.approx(7.12 + 0.83, rel=0.1)


def test_a_threshold_says_nothing_of_weights_that_are_not_there() -> None:
    with pytest.raises(BadInput, match="give a budget"):
        trainers.estimate(SaRA(), real_config("sd15"))
    counted = trainers.count(SaRA(budget=50_000_000), real_config("sd15"))
    assert counted.parameters == pytest.approx(50_000_000, rel=1e-5)


def test_a_size_that_the_base_cannot_halve_is_refused() -> None:
    with pytest.raises(BadInput, match="size: 72 is not a multiple of 64"):
        trainers.estimate(LoRA(), real_config("sd15"), size=72)


def test_what_is_said() -> None:
    said = trainers.Estimate(200, 1_500_000_000, step=0.1, source="measured", free=None)
    assert str(said) == "2 to 7 min and 1.5 GB of memory"
    said = trainers.Estimate(60, 1_500_000_000, step=0.1, source="similar", free=None)
    assert str(said) == "36 s to 2 min and 1.5 GB of memory"
    said = trainers.Estimate(2, 9 * 10**9, step=0.1, source="same", free=4 * 10**9)
    assert str(said) == ("about 2 s and 9.0 GB of memory, which is more than the 4.0 GB free")


def test_a_training_on_the_same_base_tells_the_speed_of_others(
    sd1: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, recipe = LoRA(rank=2).for_base(sd1), Recipe(batch=2)
    settings = settings_of(kind, sd1, recipe, prior=False)
    slow = Speed(flops=1e6, written=1e6, call=1e-3)  # of a machine that does something else
    monkeypatch.setattr("trainers.engine.estimate.estimate.measure_speed", lambda *_, **__: slow)

    def asked(**given: object) -> trainers.Estimate:
        return trainers.estimate(LoRA(rank=4), sd1, runs=tmp_path, drawing=False, **given)  # pyright: ignore

    first = {size: asked(batch=size) for size in (2, 4)}
    assert first[2].source == "measured"
    write_step_time(tmp_path / "one", json.loads(json.dumps(settings)), [0.25] * 5)
    then = {size: asked(batch=size) for size in (2, 4)}
    assert then[2].source == "similar" and then[2].step == pytest.approx(0.25, rel=0.2)
    assert then[4].step / then[2].step == pytest.approx(first[4].step / first[2].step)


def test_a_training_that_runs_tells_how_long_its_steps_take() -> None:
    assert [steps for steps in range(70) if is_round(steps)] == [8, 16, 32, 64]
