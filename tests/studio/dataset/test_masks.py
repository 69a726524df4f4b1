"""Masks: where they are found, how they are cut as their pictures are, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.dataset.buckets import crop_to_bucket
from studio.dataset.masks import Masked, find_mask_file, latent_mask, load_mask, with_masks
from studio.dataset.pictures import Example, read_pictures
from studio.errors import BadInput
from studio.picture import load_picture


def read(folder: Path, masked: Masked, size: int = 64) -> tuple[Example, ...]:
    pictures = read_pictures(folder, trigger="t", size=size, step=16)
    return with_masks(pictures, masked).examples


def paint(path: Path, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, "white").save(path)
    return path


def covered(example: Example, **options) -> torch.Tensor:
    return latent_mask(load_mask(example), example, **options)


def speckled(size: tuple[int, int]) -> np.ndarray:
    """[height, width] of random bytes."""
    return np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)


PLACES = (
    "photos/red.mask.png",
    "photos/red.mask.webp",
    "photos/red-masklabel.png",
    "photos/masks/red.png",
    "photos/mask/red.PNG",
    "photos_mask/red.png",
    "photos_masks/red.png",
    "masks/red.jpg",
    "mask/red.png",
)


@pytest.mark.parametrize("place", PLACES)
def test_a_mask_is_found_where_other_tools_put_it(tmp_path: Path, place: str) -> None:
    picture = paint(tmp_path / "photos" / "red.jpg")
    paint(tmp_path / "photos" / "masks" / "red.2.png")  # of another picture
    assert find_mask_file(picture) is None
    mask = paint(tmp_path / place, mode="L")
    (example,) = read(picture.parent, "files")
    assert example.mask == mask
    assert example.path == picture


@pytest.mark.parametrize("place", ["photos/red.mask.png", "photos_mask/red.png", "masks/red.png"])
def test_masks_of_the_folder_that_one_is_in_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    paint(tmp_path / "photos" / "red.jpg")
    mask = paint(tmp_path / place)
    monkeypatch.chdir(tmp_path / "photos")
    (example,) = read(Path(), "files")
    assert example.mask and example.mask.resolve() == mask


def test_the_place_nearest_to_the_picture_comes_first(tmp_path: Path) -> None:
    picture = paint(tmp_path / "photos" / "red.jpg")
    for place in reversed(PLACES[2:]):
        mask = paint(tmp_path / place)
        assert find_mask_file(picture) == mask


def test_masks_are_no_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "a.mask.png", "b.jpg", "b-masklabel.png", "face.mask.png"):
        paint(tmp_path / name)
    for name in ("2_dog/c.png", "2_dog_mask/c.png"):
        paint(tmp_path / name)
    found = read_pictures(tmp_path, trigger="t", size=64, step=16).examples
    assert [e.path.name for e in found] == ["a.png", "b.jpg", "face.mask.png", "c.png"]
    assert find_mask_file(tmp_path / "2_dog" / "c.png") == tmp_path / "2_dog_mask" / "c.png"


def test_the_mean_of_each_latents_pixels_is_what_counts(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    mask = speckled((64, 64))
    Image.fromarray(mask).save(tmp_path / "a.mask.png")
    (example,) = read(tmp_path, "files")
    found = covered(example, corner=(0, 0), flip=False, cell=8)
    assert found.dtype == torch.float32
    for row in range(8):
        for column in range(8):
            cell = mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert float(found[row, column]) == pytest.approx(cell.mean() / 255, abs=1e-6)


@pytest.mark.parametrize("size", [(100, 64), (64, 150)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_mask_is_cut_as_its_picture_is(tmp_path: Path, size: tuple[int, int], flip: bool) -> None:
    """The picture shows its own mask, so that the cut of the one tells the cut of the other."""
    mask = speckled(size)
    opaque = np.full_like(mask, 255)
    Image.fromarray(np.stack([mask, mask, mask, opaque], axis=-1)).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "a.mask.png")
    example = Example(tmp_path / "a.png", "", *size, (64, 64), mask=tmp_path / "a.mask.png")
    seen = set()
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        picture, corner = crop_to_bucket(
            load_picture(example.path), example.bucket, flip=flip, generator=generator
        )
        shown = (picture[0] / 2 + 0.5).unfold(0, 4, 4).unfold(1, 4, 4).mean(dim=(2, 3))
        found = covered(example, corner=corner, flip=flip, cell=4)
        torch.testing.assert_close(found, shown, atol=1e-6, rtol=0)
        seen.add(corner)
    assert len(seen) > 3


def test_a_bucket_of_another_scale_takes_its_mask_along(tmp_path: Path) -> None:
    """A mask of a quarter the size, its left half white, on a picture half as large again."""
    paint(tmp_path / "a.png", (192, 96))
    half = Image.new("L", (48, 24))
    half.paste(255, (0, 0, 24, 24))
    half.save(tmp_path / "a.mask.png")
    (example,) = read(tmp_path, "files")
    width, height = example.bucket
    assert width > height
    found = covered(example, corner=(0, 0), flip=False, cell=8)
    assert found.shape == (height // 8, width // 8)
    white = found.sum() / found.shape[0]
    scaled = 192 * max(width / 192, height / 96)
    assert float(white) == pytest.approx(scaled / 2 / 8, abs=0.3)


def test_the_alpha_channel_is_a_mask(tmp_path: Path) -> None:
    alpha = speckled((64, 64))
    layers = np.stack([np.zeros_like(alpha)] * 3 + [alpha], axis=-1)
    Image.fromarray(layers).save(tmp_path / "a.png")
    (example,) = read(tmp_path, "alpha")
    found = covered(example, corner=(0, 0), flip=False, cell=64)
    assert float(found) == pytest.approx(alpha.mean() / 255, abs=1e-6)


def test_a_turned_photograph_has_its_mask_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the right
    Image.new("RGB", (96, 64)).save(tmp_path / "a.jpg", exif=exif)
    mask = Image.new("L", (64, 96))
    mask.paste(255, (0, 0, 64, 48))
    mask.save(tmp_path / "a.mask.png")
    (example,) = read(tmp_path, "files")
    found = covered(example, corner=(0, 0), flip=False, cell=16)
    assert found[0].min() == 1
    assert found[-1].max() == 0


def test_what_is_transparent_in_a_mask_is_outside(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    mask = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 32, 64))
    mask.save(tmp_path / "a.mask.png")
    (example,) = read(tmp_path, "files")
    assert covered(example, corner=(0, 0), flip=False, cell=32).tolist() == [
        [1, 0],
        [1, 0],
    ]


def test_a_picture_without_a_mask_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"a\.png has no mask: put one at a\.mask\.png or masks/a"):
        read(tmp_path, "files")
    with pytest.raises(BadInput, match=r"^[^ ]*a\.png has no alpha channel"):
        read(tmp_path, "alpha")


def test_a_mask_of_two_pictures_is_refused(tmp_path: Path) -> None:
    for name in ("1_dog/a.png", "1_cat/a.png", "masks/a.png"):
        paint(tmp_path / name)
    with pytest.raises(BadInput, match=r"share the mask .*masks/a\.png"):
        read(tmp_path, "files")


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", (100, 67))
    paint(tmp_path / "a.mask.png", (50, 34), mode="L")  # half of it, rounded
    read(tmp_path, "files")
    paint(tmp_path / "a.mask.png", (67, 100), mode="L")
    with pytest.raises(BadInput, match=r"is 67 x 100, but a\.png is 100 x 67: give it the same"):
        read(tmp_path, "files")


def test_a_black_mask_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    Image.new("L", (64, 64)).save(tmp_path / "a.mask.png")
    with pytest.raises(BadInput, match=r"The mask .* is black all over"):
        read(tmp_path, "files")
    Image.new("RGBA", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"The alpha channel .*a\.png is black all over"):
        read(tmp_path, "alpha")


def test_a_mask_that_is_black_in_the_cut_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", (200, 64))
    mask = Image.new("L", (200, 64))
    mask.paste(255, (0, 0, 20, 64))
    mask.save(tmp_path / "a.mask.png")
    example = Example(tmp_path / "a.png", "", 200, 64, (64, 64), mask=tmp_path / "a.mask.png")
    assert covered(example, corner=(0, 0), flip=False, cell=8).sum() == 8 * 20 / 8
    with pytest.raises(BadInput, match=r"is black where a.png is cut to 64 x 64"):
        covered(example, corner=(0, 68), flip=False, cell=8)


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "a.mask.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"The mask .*a\.mask\.png can't be read as a picture"):
        read(tmp_path, "files")


def test_all_masks_that_are_wrong_are_named_at_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        paint(tmp_path / f"{name}.png")
    with pytest.raises(BadInput, match=r"a\.png has no mask \(so too b\.png, c\.png, d\.png\):"):
        read(tmp_path, "files")
    paint(tmp_path / "b.mask.png")
    Image.new("L", (64, 64)).save(tmp_path / "c.mask.png")
    with pytest.raises(BadInput, match=r"^2 mistakes:\n.*is black all over.*\n.*\(so too d\.png\)"):
        read(tmp_path, "files")
