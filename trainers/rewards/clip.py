"""A reward for likeness to words, or for beauty, by a CLIP model."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from studio.errors import BadInput
from studio.files import expand_home
from studio.requests.validation import option
from trainers.engine.from_prompts.alignment import Alignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import CLIPModel, CLIPTokenizer

CLIP_MEAN, CLIP_STD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)
HEAD = "aesthetic.safetensors"


@dataclass(frozen=True)
class Clip(Alignment):
    """Likeness to words, or beauty, by a CLIP model on this computer."""

    folder: Path | None = option(None, "transformers' folder of a CLIPModel with its tokenizer")
    words: str | None = option(None, "what pictures shall be like; default: their own prompts")
    aesthetic: bool = option(
        False, f"score by a linear head instead: weight and bias in the folder's {HEAD}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folder is None:
            return
        full = Path(os.path.abspath(expand_home(self.folder)))  # workers run in other folders
        object.__setattr__(self, "folder", full)

    def check_files(self) -> None:
        """Raise BadInput where the folder lacks a CLIP model, its tokenizer or the head."""
        if self.folder is None:
            raise BadInput("folder is missing: name the folder of a CLIP model (config.json)")
        if not (self.folder / "config.json").is_file():
            raise BadInput(f"folder: {self.folder} has no config.json: it is no CLIP model")
        if self.aesthetic:
            _ = self._head
        else:
            self._text_features(["a word"])

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """The cosine similarity of picture and words, or the head's score."""
        from torch.nn.functional import normalize

        model = self._model.to(pixels.device)  # pyright: ignore[reportArgumentType]
        features = normalize(_pooled(model.get_image_features(_fitted(pixels, model))), dim=-1)
        if self.aesthetic:
            weight, bias = self._head
            return features @ weight.to(features) + bias.to(features)
        texts = [self.words or prompt for prompt in prompts]
        return (features * normalize(self._text_features(texts), dim=-1)).sum(-1)

    @cached_property
    def _model(self) -> "CLIPModel":
        from transformers import CLIPModel

        assert self.folder  # check_files has made sure
        try:
            model, report = cast(Any, CLIPModel).from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInput(f"folder: {self.folder} is no CLIP model: {error}") from error
        if report["missing_keys"]:
            raise BadInput(f"folder: {self.folder} is no CLIP model: weights of one are missing")
        return model.eval().requires_grad_(False)

    @cached_property
    def _head(self) -> "tuple[Tensor, Tensor]":
        """The head's weight, [C] for C features, and bias, []."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        assert self.folder
        file, width = self.folder / HEAD, cast(Any, self._model.config).projection_dim
        try:
            tensors = load_file(file)
            weight, bias = tensors["weight"].float().flatten(), tensors["bias"].float().flatten()
        except (OSError, SafetensorError, KeyError) as error:
            raise BadInput(f"aesthetic: {file} has no weight and bias to read: {error}") from error
        if (len(weight), len(bias)) != (width, 1):
            raise BadInput(f"aesthetic: {file} is no linear head of {width} numbers and a bias")
        return weight, bias[0]

    def _text_features(self, texts: "Sequence[str]") -> "Tensor":
        """The features of texts, [B, C], without gradients."""
        import torch

        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            return _pooled(self._model.get_text_features(tokens.input_ids.to(self._model.device)))

    @cached_property
    def _tokenizer(self) -> "CLIPTokenizer":
        from transformers import CLIPTokenizer

        assert self.folder
        try:
            return CLIPTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"folder: {self.folder} has no tokenizer of CLIP: {error}") from error


def _fitted(pixels: "Tensor", model: "CLIPModel") -> "Tensor":
    """Pictures in the size and the range of values that CLIP reads."""
    import torch
    from torch.nn.functional import interpolate

    side = cast(Any, model.config).vision_config.image_size
    small = interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (
        torch.tensor(rgb, device=pixels.device).view(3, 1, 1) for rgb in (CLIP_MEAN, CLIP_STD)
    )
    return (small - mean) / std


def _pooled(features: object) -> "Tensor":
    """The features themselves, which transformers 5 wraps in an output object."""
    return getattr(features, "pooler_output", features)  # pyright: ignore[reportReturnType]
