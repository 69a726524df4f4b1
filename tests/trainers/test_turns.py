"""Steps of a B-LoRA in which the style half learns alone, against a step done by hand."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.base import Base
from studio.delta import LowRank, attach, resting
from studio.errors import BadInput
from tests.trainers.conftest import make_pictures
from tests.trainers.learning import TRIGGER, assert_lent, assert_resumes, learned
from trainers import BLoRA
from trainers._kind import fitted, new_deltas

CONTENT = "unet.up_blocks.0.attentions.0."
STYLE = "unet.up_blocks.0.attentions.1."
ALONE, BESIDE = 1 - 1e-9, 1e-9  # as good as always, as good as never


@pytest.mark.parametrize(("share", "taught"), [(ALONE, STYLE), (BESIDE, CONTENT)])
def test_a_step_teaches_one_half_only(
    sdxl: Base, folder: Path, tmp_path: Path, share: float, taught: str
) -> None:
    with assert_lent(sdxl):
        adapter, _ = learned(BLoRA(rank=2, style_alone=share), sdxl, folder, tmp_path / "run")
    for name, delta in adapter.deltas.items():
        assert isinstance(delta, LowRank)
        assert bool(delta.up.any()) == name.startswith(taught), name


def test_both_halves_learn_and_a_resume_goes_on_with_the_same_turns(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    kind = BLoRA(rank=2, style_alone=0.5)
    adapter, _ = learned(kind, sdxl, folder, tmp_path / "both")
    ups = [delta.up for delta in adapter.deltas.values() if isinstance(delta, LowRank)]
    assert len(ups) == len(adapter.deltas) and all(up.any() for up in ups)
    assert_resumes(kind, sdxl, folder, tmp_path)


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
        fitted(BLoRA(rank=2), sdxl), sdxl, generator=torch.Generator().manual_seed(0)
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
        with resting(sdxl.layers(), deltas.keys() - style.keys()):
            assert torch.equal(predicted(), alone)
        assert torch.equal(predicted(), both)
    assert not torch.equal(both, alone)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"style_alone": 1.0}, "style_alone lies between 0 and 1"),
        ({"style_noise": 0.0}, "style_noise is above 0"),
        ({"style_part": 1.5}, "style_part is above 0 and at most 1"),
    ],
)
def test_shares_out_of_range_are_refused(given: dict[str, float], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        BLoRA(**given)  # pyright: ignore[reportArgumentType]
