"""What pictures can be rewarded for. Nothing here is downloaded.

A reward is a frozen dataclass whose fields are its options. `score` gives a number for each
picture, higher is better, with gradients to the pixels; `check` refuses what cannot be scored.
PyTorch is imported where it computes, since options are read without it.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Ge, Le, MinLen

from studio.errors import BadInput
from studio.requests.recipe import Share
from studio.requests.validation import check, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import CLIPModel, CLIPTokenizer

    from studio.sketch import judge

BLOCK = 8  # pixels of JPEG's blocks
# The luminance table of the JPEG standard (ITU-T T.81, table K.1), at its quality of 50.
QUANTISED = """
    16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56
    14 17 22 29 51 87 80 62  18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92
    49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
LUMA = (0.299, 0.587, 0.114)
CLIP_MEAN, CLIP_STD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)
HEAD = "aesthetic.safetensors"


@dataclass(frozen=True)
class Reward:
    """Raises BadInput that names every option out of range."""

    def __post_init__(self) -> None:
        check(self)

    def check(self) -> None:
        """Raise BadInput, before long work, for files that are missing or are something else."""

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """[B], differentiable. pixels: [B, 3, H, W], float32 in 0 .. 1. prompts: of each."""
        raise NotImplementedError


@dataclass(frozen=True)
class Tile(Reward):
    """Edges that meet: the picture can be laid side by side without a seam."""

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the mean difference of opposite edges."""
        across = (pixels[..., 0] - pixels[..., -1]).abs().mean(dim=(1, 2))
        down = (pixels[..., 0, :] - pixels[..., -1, :]).abs().mean(dim=(1, 2))
        return -(across + down) / 2


@dataclass(frozen=True)
class Palette(Reward):
    """Nothing but some colours."""

    colours: Annotated[tuple[str, ...], MinLen(1)] = option(
        ("black", "white"), "names, or as #ff8800"
    )

    def check(self) -> None:
        """Raise BadInput for what is no colour."""
        self._numbers()

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the mean distance of a pixel to the nearest of the colours, in RGB."""
        import torch

        colours = torch.tensor(self._numbers(), device=pixels.device) / 255  # -> [N, 3]
        apart = pixels[:, None] - colours[None, :, :, None, None]  # -> [B, N, 3, H, W]
        squared = apart.square().sum(2).amin(1)
        return -(squared + 1e-6).sqrt().mean(dim=(1, 2))

    def _numbers(self) -> list[tuple[int, ...]]:
        from PIL import ImageColor

        try:
            return [ImageColor.getrgb(name)[:3] for name in self.colours]
        except ValueError as error:
            raise BadInput(f"colours: {error}; write a name or #rrggbb") from error


@dataclass(frozen=True)
class Brightness(Reward):
    """A brightness that all pictures have."""

    target: Share = option(0.5, "mean luminance, from 0 (black) to 1 (white)")

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the distance of the mean luminance from the target."""
        return -(_luminance(pixels).mean(dim=(1, 2)) - self.target).abs()


@dataclass(frozen=True)
class Contrast(Reward):
    """A contrast that all pictures have."""

    target: Annotated[float, Ge(0), Le(0.5)] = option(
        0.3, "standard deviation of the luminance, from 0 to 0.5"
    )

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus the distance of the luminance's deviation from the target."""
        return -(_luminance(pixels).flatten(1).std(dim=1) - self.target).abs()


@dataclass(frozen=True)
class FileSize(Reward):
    """Flat pictures of small files, or rich ones of large files."""

    larger: bool = option(False, "reward large files, that is detail, in place of small ones")

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus about the bits of a pixel in a JPEG: log2(1 + |c| / q) of its cosine coefficients.

        q: the standard's table. Of the luminance alone.
        """
        import torch

        grey = 255 * _luminance(pixels)
        height, width = (side - side % BLOCK for side in grey.shape[1:])
        parts = grey[:, :height, :width].unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
        at = torch.arange(BLOCK, device=pixels.device)
        waves = torch.cos(torch.pi / BLOCK * (at + 0.5) * at[:, None]) * (2 / BLOCK) ** 0.5
        waves[0] /= 2**0.5  # -> [frequency, pixel], orthonormal
        found = torch.einsum("vp,bhpwq,uq->bhwvu", waves, parts, waves)
        table = torch.tensor([float(n) for n in QUANTISED.split()], device=pixels.device)
        bits = (1 + found.abs() / table.view(BLOCK, BLOCK)).log2()
        bits = (
            bits.flatten(-2)[..., 1:].sum(-1).mean(dim=(1, 2)) / BLOCK**2
        )  # without the mean grey
        return bits if self.larger else -bits


@dataclass(frozen=True)
class Judge(Reward):
    """What the judge of the sketch bases is to read in every picture."""

    factor: Literal["subject", "colour", "pattern", "place", "style", "worn", "held"] = option(
        "style", "what it is asked for"
    )
    answer: str = option("ink drawing", "what it is to say")

    def check(self) -> None:
        """Raise BadInput for an answer that it does not know."""
        from studio.sketch.judge import FACTORS

        if self.answer not in FACTORS[self.factor]:
            raise BadInput(
                f"answer: the judge knows no {self.factor} {self.answer!r}; it knows "
                f"{', '.join(FACTORS[self.factor])}"
            )

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """The logarithm of the answer's probability."""
        from torch.nn.functional import adaptive_avg_pool2d

        from studio.sketch.judge import FACTORS, SIDE

        logits = _judge().to(pixels.device)(2 * adaptive_avg_pool2d(pixels, SIDE) - 1)[self.factor]
        return logits.log_softmax(-1)[:, FACTORS[self.factor].index(self.answer)]


@dataclass(frozen=True)
class Clip(Reward):
    """Likeness to words, or beauty, as a CLIP model on this computer sees it."""

    folder: Path | None = option(None, "transformers' folder of a CLIPModel with its tokenizer")
    words: str | None = option(None, "what pictures are to be like; their own prompts by default")
    aesthetic: bool = option(
        False, f"a linear head's score instead, of {HEAD} in the folder (weight and bias)"
    )

    def check(self) -> None:
        """Raise BadInput where the folder holds no such model or no head."""
        if self.folder is None:
            raise BadInput("folder is missing: name the folder of a CLIP model (config.json)")
        if not (self.folder / "config.json").is_file():
            raise BadInput(f"folder: {self.folder} has no config.json: it is no CLIP model")
        if self.aesthetic and not (self.folder / HEAD).is_file():
            raise BadInput(f"aesthetic: {self.folder} has no {HEAD}")
        _clip(self.folder)

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """The cosine of picture and words, or the head's number."""
        from torch.nn.functional import normalize

        assert self.folder  # or check had refused
        model = _clip(self.folder).to(pixels.device)  # pyright: ignore[reportArgumentType]
        seen = normalize(_pooled(model.get_image_features(_fitted(pixels, model))), dim=-1)
        if self.aesthetic:
            weight, bias = _head(self.folder)
            return seen @ weight.to(seen).flatten() + bias.to(seen)
        texts = [self.words or prompt for prompt in prompts]
        return (seen * normalize(_told(self.folder, model, texts), dim=-1)).sum(-1)


REWARDS: dict[str, type[Reward]] = {
    "tile": Tile,
    "palette": Palette,
    "brightness": Brightness,
    "contrast": Contrast,
    "filesize": FileSize,
    "judge": Judge,
    "clip": Clip,
}


def _luminance(pixels: "Tensor") -> "Tensor":
    """[B, 3, H, W] -> [B, H, W]."""
    red, green, blue = pixels.unbind(1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


@cache
def _judge() -> "judge.Judge":
    from studio.sketch.judge import load_judge

    return load_judge().requires_grad_(False)


@cache
def _clip(folder: Path) -> "CLIPModel":
    from transformers import CLIPModel

    try:
        return CLIPModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise BadInput(f"folder: {folder} is no CLIP model: {error}") from error


@cache
def _head(folder: Path) -> "tuple[Tensor, Tensor]":
    from safetensors.torch import load_file

    tensors = load_file(folder / HEAD)
    if not {"weight", "bias"} <= tensors.keys():
        raise BadInput(f"aesthetic: {folder / HEAD} has no tensors weight and bias")
    return tensors["weight"], tensors["bias"].flatten()[0]


def _fitted(pixels: "Tensor", model: "CLIPModel") -> "Tensor":
    """Pictures in the size and the range that CLIP reads."""
    import torch
    from torch.nn.functional import interpolate

    side = cast(Any, model.config).vision_config.image_size
    small = interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (
        torch.tensor(one, device=pixels.device).view(3, 1, 1) for one in (CLIP_MEAN, CLIP_STD)
    )
    return (small - mean) / std


def _told(folder: Path, model: "CLIPModel", texts: "Sequence[str]") -> "Tensor":
    """The features of texts, without gradients."""
    import torch

    words = _tokenizer(folder)(
        list(texts), padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        return _pooled(model.get_text_features(words.input_ids.to(model.device)))


@cache
def _tokenizer(folder: Path) -> "CLIPTokenizer":
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _pooled(features: object) -> "Tensor":
    """transformers 5 gives the features inside of an output."""
    return getattr(features, "pooler_output", features)  # pyright: ignore[reportReturnType]
