"""Steps of a B-LoRA in which the style half learns alone, against a step done by hand."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import trainers
from studio import Adapter
from studio.adapters.delta import Delta, LowRank, attach, detached
from studio.bases.base import Base
from studio.errors import BadInput
from tests.trainers.conftest import make_pictures
from tests.trainers.learning import SHORT, TRIGGER, assert_lent, assert_resumes, learned
from trainers import BLoRA
from trainers.engine.ema import EMA
from trainers.engine.kind import new_deltas

CONTENT = "unet.up_blocks.0.attentions.0."
STYLE = "unet.up_blocks.0.attentions.1."
ALONE = 1 - 1e-9  # as good as always
EVEN = {"schedule": "constant", "weight_decay": 0.0}


def test_steps_alone_teach_the_style_half_only(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    with assert_lent(sdxl):
        adapter, _ = learned(BLoRA(rank=2, style_alone=ALONE), sdxl, folder, tmp_path / "run")
    for name, delta in adapter.deltas.items():
        assert isinstance(delta, LowRank)
        assert bool(delta.up.any()) == name.startswith(STYLE), name


def test_every_other_step_before_teaches_the_content_half_only(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    kind = BLoRA(rank=2, style_alone=1 - ALONE)
    first, _ = learned(kind, sdxl, folder, tmp_path / "one", steps=1, **EVEN)
    second, _ = learned(kind, sdxl, folder, tmp_path / "two", steps=2, **EVEN)
    for name in first.deltas:
        assert torch.equal(_up(first, name), _up(second, name)) == name.startswith(STYLE), name


def test_in_the_end_the_content_half_stays_and_the_style_half_begins_anew(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    """Adam's first step moves each number by the learning rate: so far the style half has come."""
    whole = BLoRA(rank=2, style_alone=0.25)
    adapter, _ = learned(whole, sdxl, folder, tmp_path / "whole", steps=4, **EVEN)
    begun = BLoRA(rank=2, style_alone=1 - ALONE)
    before, _ = learned(begun, sdxl, folder, tmp_path / "begun", steps=3, **EVEN)
    content = [name for name in adapter.deltas if name.startswith(CONTENT)]
    style = adapter.deltas.keys() - content
    assert all(torch.equal(_up(adapter, name), _up(before, name)) for name in content)
    assert max(_up(before, name).abs().max() for name in style) > 1.5 * SHORT["lr"]
    furthest = max(float(_up(adapter, name).abs().max()) for name in style)
    assert furthest == pytest.approx(SHORT["lr"], rel=1e-2)


def test_the_style_half_begins_anew_in_the_average_too(sdxl: Base) -> None:
    kind = BLoRA(rank=2, style_alone=0.5).for_base(sdxl)
    deltas = new_deltas(kind, sdxl, generator=torch.Generator())
    average = EMA(deltas, 0.9)
    for name in deltas:
        _factor(deltas, name).fill_(1.0)
    average.update(1)
    assert kind.adjust(sdxl.layers(), deltas, done=2, steps=4)
    average.realign()
    for name in deltas:
        assert bool(_factor(average.deltas(deltas), name).any()) == name.startswith(CONTENT)


def test_the_learning_rate_takes_its_course_twice(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    given = {"steps": 8, "schedule": "linear", "warmup": 1, "batch": 1}
    events = trainers.train(
        BLoRA(rank=2, style_alone=0.5),
        sdxl,
        folder,
        trigger=TRIGGER,
        run=tmp_path / "run",
        **{**SHORT, **given},
    )
    rates = [event.lr / SHORT["lr"] for event in events if isinstance(event, trainers.Step)]
    assert rates == pytest.approx([1, 1, 2 / 3, 1 / 3] * 2)


def test_a_resume_goes_on_with_the_same_turns(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    assert_resumes(BLoRA(rank=2, style_alone=0.5), sdxl, folder, tmp_path, after=4)
    assert_resumes(BLoRA(rank=2, style_alone=0.5), sdxl, folder, tmp_path / "at", after=3)


def test_the_loss_of_a_step_alone_is_that_of_a_part_at_little_noise(
    sdxl: Base, tmp_path: Path
) -> None:
    """Nothing is learned before the first step, so its loss is the base's own on the part."""
    folder = make_pictures(tmp_path / "pictures", sides=[(64, 64)])
    (file,) = folder.glob("*.png")
    file.with_suffix(".txt").write_text(TRIGGER, encoding="utf-8")
    kind = BLoRA(rank=2, style_alone=ALONE, style_noise=0.2, style_part=0.5)
    _, losses = learned(kind, sdxl, folder, tmp_path / "run", steps=1, batch=1, min_snr=0)

    seed = int.from_bytes(sha256(b"0/step/0").digest()[:8], "little") // 2
    draw = torch.Generator().manual_seed(seed)
    at = torch.randint(200, (), generator=draw)
    posterior, noise = (torch.randn(4, 8, 8, generator=draw) for _ in range(2))
    step = sdxl.step // sdxl.latent_factor
    side = 4 // step * step
    top, left = (int(torch.randint(8 - side + 1, (), generator=draw)) for _ in range(2))
    assert side < 8
    pixels = torch.from_numpy(np.asarray(Image.open(file).convert("RGB"), dtype=np.float32))
    with torch.no_grad():
        mean, std = sdxl.posterior(pixels.permute(2, 0, 1)[None] / 127.5 - 1)
        part = (slice(None), slice(top, top + side), slice(left, left + side))
        clean, eps = (mean[0] + std[0] * posterior)[part], noise[part]
        signal = sdxl.alphas_cumprod[at]
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * eps
        factor = sdxl.latent_factor
        ids = [64, 64, factor * top, factor * left, factor * side, factor * side]
        text = sdxl.encode_text([TRIGGER])
        predicted = sdxl.predict(noisy[None], at[None], text, time_ids=torch.tensor([ids]).float())
    assert losses == [pytest.approx(float((predicted[0] - eps).square().mean()), rel=1e-4)]


def test_resting_deltas_are_off_until_the_block_is_left(sdxl: Base) -> None:
    deltas = new_deltas(
        BLoRA(rank=2).for_base(sdxl), sdxl, generator=torch.Generator().manual_seed(0)
    )
    for delta in deltas.values():
        assert isinstance(delta, LowRank)
        delta.up.data.fill_(0.1)
    style = {name: delta for name, delta in deltas.items() if name.startswith(STYLE)}

    def predicted() -> torch.Tensor:
        latents = torch.ones(1, 4, 8, 8)
        with torch.no_grad():
            return sdxl.predict(latents, 500, sdxl.encode_text(["a robot"]))

    with attach(sdxl.layers(), style):
        alone = predicted()
    with attach(sdxl.layers(), deltas):
        both = predicted()
        with detached(sdxl.layers(), deltas.keys() - style.keys()):
            assert torch.equal(predicted(), alone)
        assert torch.equal(predicted(), both)
    assert not torch.equal(both, alone)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"style_alone": 1.0}, "style_alone must be a number of at least 0 and below 1"),
        ({"style_noise": 0.0}, "style_noise must be a number above 0"),
        ({"style_part": 1.5}, "style_part must be a number above 0 and of at most 1"),
    ],
)
def test_shares_out_of_range_are_refused(given: dict[str, float], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        BLoRA(**given)  # pyright: ignore[reportArgumentType]


def _up(adapter: Adapter, name: str) -> torch.Tensor:
    return _factor(adapter.deltas, name)


def _factor(deltas: Mapping[str, Delta], name: str) -> torch.Tensor:
    delta = deltas[name]
    assert isinstance(delta, LowRank)
    return delta.up.detach()
