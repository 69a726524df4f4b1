"""What is encoded once equals what the VAE and the text encoders give, in memory and on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from studio.bases.base import Base
from studio.dataset.buckets import crop_to_bucket
from studio.dataset.masks import with_masks
from studio.dataset.pictures import read_pictures
from studio.errors import BadInput
from studio.picture import load_picture
from tests.trainers.conftest import make_pictures
from trainers.engine.data.cache import Cache

TRIGGER = "a sks robot"


def filled(
    base: Base, folder: Path, *, crops: int = 1, flip: bool = False, disk: Path | None = None
) -> Cache:
    examples = read_pictures(folder, trigger=TRIGGER, size=base.size, step=base.step).examples
    cache = Cache(base, examples, crops=crops, flip=flip, folder=disk)
    for _ in cache.fill([example.caption for example in examples]):
        pass
    return cache


def posterior(base: Base, picture: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        given = base.vae.encode(picture[None]).latent_dist
    factor = base.vae.config["scaling_factor"]
    return given.mean[0] * factor, given.std[0] * factor


def test_a_picture_is_kept_as_mean_and_spread_of_its_latents(sdxl: Base, folder: Path) -> None:
    cache = filled(sdxl, folder)
    for number, example in enumerate(cache.examples):
        mean, std = posterior(sdxl, crop_to_bucket(load_picture(example.path), example.bucket)[0])
        kept = cache.picture(number, 0)
        assert torch.equal(kept.mean, mean)
        assert torch.equal(kept.std, std)
        assert kept.time_ids is not None
        assert kept.time_ids.tolist() == [64, 64, 0, 0, 64, 64]


def test_clear_parts_are_encoded_over_the_colour_asked_for(sdxl: Base, tmp_path: Path) -> None:
    """On disk each colour has latents of its own."""
    (tmp_path / "photos").mkdir()
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "photos" / "a.png")
    found = read_pictures(tmp_path / "photos", trigger=TRIGGER, size=64, step=16).examples
    for colour, value in (("white", 1.0), ("black", -1.0)):
        place = tmp_path / "cache"
        cache = Cache(sdxl, found, crops=1, flip=False, folder=place, background=colour)
        for _ in cache.fill([]):
            pass
        mean, _ = posterior(sdxl, torch.full((3, 64, 64), value))
        assert torch.equal(cache.picture(0, 0).mean, mean)


def test_captions_are_kept_as_the_base_encodes_them(sdxl: Base, folder: Path) -> None:
    cache = filled(sdxl, folder)
    for caption in ("a photo of a sks robot in red", TRIGGER):
        with torch.no_grad():
            text = sdxl.encode_text([caption])
        kept = cache.text(caption)
        assert torch.equal(kept.hidden, text.hidden)
        assert kept.pooled is not None
        assert text.pooled is not None
        assert torch.equal(kept.pooled, text.pooled)


@pytest.mark.parametrize("zeros", [True, False])
def test_no_caption_is_what_no_prompt_is_when_pictures_are_made(
    sdxl: Base, folder: Path, zeros: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdxl, "zero_negative", zeros)
    cache = filled(sdxl, folder)
    for _ in cache.fill([""]):
        pass
    kept = cache.text("")
    assert kept.pooled is not None
    with torch.no_grad():
        empty = sdxl.encode_text([""]).hidden
    assert torch.equal(kept.hidden, torch.zeros_like(empty) if zeros else empty)
    assert kept.pooled.any().item() is not zeros


def test_mirror_images_and_crops_are_kept_beside(sd1: Base, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "wide", sides=[(200, 64)])
    cache = filled(sd1, folder, crops=3, flip=True)
    kept = [cache.picture(0, variant) for variant in range(cache.variants)]
    assert len(kept) == 6
    assert all(not torch.equal(a.mean, b.mean) for a in kept for b in kept if a is not b)
    again = filled(sd1, folder, crops=3, flip=True)
    assert all(torch.equal(again.picture(0, v).mean, kept[v].mean) for v in range(6))


def test_a_mask_is_that_of_its_crop_and_mirror_image(sdxl: Base, tmp_path: Path) -> None:
    """Each column of the mask has a shade of its own, which tells the cut."""
    folder = make_pictures(tmp_path / "wide", sides=[(200, 64)])
    shades = np.arange(1, 201, dtype=np.uint8)
    Image.fromarray(np.tile(shades, (64, 1))).save(folder / "0.mask.png")
    pictures = read_pictures(folder, trigger=TRIGGER, size=64, step=sdxl.step, buckets=False)
    examples = with_masks(pictures, "files").examples
    cache = Cache(sdxl, examples, crops=4, flip=True, folder=None)
    for _ in cache.fill([]):
        pass
    lefts = set()
    for variant in range(8):
        kept = cache.picture(0, variant)
        assert kept.time_ids is not None
        assert kept.mask is not None
        left = int(kept.time_ids[3])
        shown = (shades[::-1] if variant >= 4 else shades)[left : left + 64]
        expected = torch.from_numpy(shown.reshape(8, 8).mean(axis=1) / 255)
        torch.testing.assert_close(kept.mask, expected.float().expand(8, 8), atol=1e-6, rtol=0)
        lefts.add(left)
    assert len(lefts) > 2


def test_the_disk_keeps_what_memory_keeps(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    memory, disk = filled(sdxl, folder), filled(sdxl, folder, disk=tmp_path / "cache")
    for number in range(len(memory.examples)):
        assert torch.equal(memory.picture(number, 0).mean, disk.picture(number, 0).mean)
        assert torch.equal(memory.picture(number, 0).std, disk.picture(number, 0).std)
    assert torch.equal(memory.text(TRIGGER).hidden, disk.text(TRIGGER).hidden)


def test_the_disk_is_asked_before_anything_is_encoded_again(
    sdxl: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(sdxl, folder, disk=tmp_path / "cache")
    monkeypatch.setattr(sdxl.vae, "encode", None)
    filled(sdxl, folder, disk=tmp_path / "cache")
    make_pictures(tmp_path / "other", sides=[(64, 64), (80, 64)])
    with pytest.raises(TypeError):
        filled(sdxl, tmp_path / "other", disk=tmp_path / "cache")


def test_another_base_finds_nothing_of_this_one(
    sdxl: Base, sd1: Base, folder: Path, tmp_path: Path
) -> None:
    filled(sdxl, folder, disk=tmp_path / "cache")
    before = set((tmp_path / "cache").glob("*/*"))
    filled(sd1, folder, disk=tmp_path / "cache")
    after = set((tmp_path / "cache").glob("*/*"))
    assert len(after) == 2 * len(before)


def test_captions_are_kept_for_the_words_they_were_read_with(
    sd1: Base, folder: Path, tmp_path: Path
) -> None:
    """As adapters that are merged into the base of a distillation have them."""
    for value in (0.0, 1.0):
        with sd1.use_embeddings({"sks": {"text_encoder": torch.full((1, 32), value)}}):
            cache = filled(sd1, folder, disk=tmp_path / "cache")
            with torch.no_grad():
                expected = sd1.encode_text([TRIGGER]).hidden
        assert torch.equal(cache.text(TRIGGER).hidden, expected)


def test_a_damaged_file_is_named(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    cache = filled(sdxl, folder, disk=tmp_path / "cache")
    for path in (tmp_path / "cache").glob("*/*"):
        load_file(path)
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="is damaged: delete it"):
        cache.text(TRIGGER)
