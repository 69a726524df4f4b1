"""What never changes during a training, computed once: latents of pictures, embeddings of captions.

Of each picture the mean and the spread of its latents are kept, for every crop and mirror image
that the recipe asks for, so that a step still draws fresh latents from the VAE's posterior. They
are kept in memory, or on disk under a key made of the picture's bytes and of the VAE's weights,
where every later training of the same base finds them. Things are encoded one at a time, for then
the numbers do not depend on which neighbours were in the cache already.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from studio.dataset.masks import latent_mask
from studio.dataset.pictures import Example, load_pixels
from studio.errors import BadInput
from studio.files import file_sha256, write_file
from trainers.engine.objective import generator_for

if TYPE_CHECKING:
    from studio.bases.base import Base, TextEmbedding

__all__ = ["Cache", "Picture"]

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Picture:
    """One crop of one picture as the loop sees it, on the CPU in float32."""

    mean: Tensor  # [4, h, w]
    std: Tensor  # [4, h, w]
    time_ids: Tensor | None  # [6]
    mask: Tensor | None = None  # [h, w] in 0 .. 1


class Cache:
    """Encoded pictures and captions of one training.

    crops: random crops of each picture; 1 is the centre crop. flip: mirror images too.
    folder: where to keep them; None for memory.
    """

    def __init__(
        self,
        base: "Base",
        examples: Sequence[Example],
        digests: Sequence[str],
        *,
        crops: int,
        flip: bool,
        folder: Path | None,
    ) -> None:
        self.base, self.examples, self.digests = base, examples, digests
        self.crops, self.flip = crops, flip
        self._masks = [file_sha256(one.mask) if one.mask else "" for one in examples]
        self._shelf: _Shelf = {} if folder is None else _Disk(folder)
        # In memory there is one base only, and its weights need no name.
        self._vae = fingerprint(base.vae) if folder else ""
        self._text = fingerprint(*base.text_encoders) if folder else ""

    @property
    def variants(self) -> int:
        """How many crops and mirror images there are of each picture."""
        return self.crops * (2 if self.flip else 1)

    def fill(self, captions: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Encode what is not kept yet; yields how many of how many are done."""
        pictures = [(n, v) for n in range(len(self.examples)) for v in range(self.variants)]
        texts = list(dict.fromkeys(captions))
        total = len(pictures) + len(texts)
        for done, (number, variant) in enumerate(pictures, start=1):
            key = self._picture_key(number, variant)
            if key not in self._shelf:
                self._shelf[key] = self._encode_picture(number, variant)
            key = self._mask_key(number, variant)
            if self._masks[number] and key not in self._shelf:
                self._shelf[key] = self._cut_mask(number, variant)
            yield done, total
        for done, text in enumerate(texts, start=len(pictures) + 1):
            key = self._text_key(text)
            if key not in self._shelf:
                self._shelf[key] = self._encode_text(text)
            yield done, total

    def picture(self, number: int, variant: int) -> Picture:
        """A crop or mirror image of picture `number`, encoded."""
        kept = self._shelf[self._picture_key(number, variant)]
        example = self.examples[number]
        width, height = example.bucket
        top, left = kept["crop"].tolist()
        time_ids = self.base.time_ids(
            original=(example.height, example.width), crop=(top, left), target=(height, width)
        )
        masked = bool(self._masks[number])
        mask = self._shelf[self._mask_key(number, variant)]["mask"] if masked else None
        return Picture(mean=kept["mean"], std=kept["std"], time_ids=time_ids, mask=mask)

    def text(self, caption: str) -> "TextEmbedding":
        """A caption's embeddings, a batch of one."""
        from studio.bases.base import TextEmbedding

        kept = self._shelf[self._text_key(caption)]
        return TextEmbedding(hidden=kept["hidden"], pooled=kept.get("pooled"))

    def _picture_key(self, number: int, variant: int) -> str:
        return _key("picture", self._vae, *self._cut(number, variant))

    def _mask_key(self, number: int, variant: int) -> str:
        factor = self.base.latent_factor
        return _key("mask", self._masks[number], factor, *self._cut(number, variant))

    def _cut(self, number: int, variant: int) -> tuple[object, ...]:
        """What decides which pixels a variant of a picture has."""
        width, height = self.examples[number].bucket
        crop = f"{variant % self.crops} of {self.crops}" if self.crops > 1 else "centre"
        mirrored = variant >= self.crops
        return self.digests[number], width, height, crop, mirrored

    def _text_key(self, caption: str) -> str:
        return _key("text", self._text, self.base.zero_negative, caption)

    def _encode_picture(self, number: int, variant: int) -> Tensors:
        generator = None
        if self.crops > 1:
            generator = generator_for("crop", self.digests[number], variant % self.crops)
        mirrored = variant >= self.crops
        picture, crop = load_pixels(self.examples[number], flip=mirrored, generator=generator)
        mean, std = self.base.posterior(picture.unsqueeze(0))
        if not torch.isfinite(mean).all():
            raise BadInput(
                f"the base's VAE gives no numbers for {self.examples[number].path}: load the base "
                "in float32 or bfloat16"
            )
        return {"mean": mean[0].cpu(), "std": std[0].cpu(), "crop": torch.tensor(crop)}

    def _cut_mask(self, number: int, variant: int) -> Tensors:
        top, left = self._shelf[self._picture_key(number, variant)]["crop"].tolist()
        mask = latent_mask(
            self.examples[number],
            corner=(top, left),
            flip=variant >= self.crops,
            cell=self.base.latent_factor,
        )
        return {"mask": mask}

    def _encode_text(self, caption: str) -> Tensors:
        with torch.no_grad():
            text = self.base.encode_text([caption])
        kept = {"hidden": text.hidden.cpu().contiguous()}
        if text.pooled is not None:
            kept["pooled"] = text.pooled.cpu().contiguous()
        if not caption and self.base.zero_negative:
            # No caption is what no prompt is to this base when pictures are made: zeros.
            kept = {name: torch.zeros_like(tensor) for name, tensor in kept.items()}
        return kept


class _Shelf(Protocol):
    """Where encoded things are kept; a dict is one."""

    def __contains__(self, key: str, /) -> bool: ...
    def __getitem__(self, key: str, /) -> Tensors: ...
    def __setitem__(self, key: str, tensors: Tensors, /) -> None: ...


class _Disk:
    """A folder of safetensors files, each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str, /) -> bool:
        return self._path(key).exists()

    def __getitem__(self, key: str, /) -> Tensors:
        path = self._path(key)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise BadInput(f"the cached file {path} is damaged: delete it") from error

    def __setitem__(self, key: str, tensors: Tensors, /) -> None:
        write_file(self._path(key), save(tensors), durable=False)


def fingerprint(*modules: nn.Module) -> str:
    """The SHA-256 of all weights of the modules, their names included."""
    total = sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _key(*about: object) -> str:
    return sha256("\n".join(map(str, about)).encode()).hexdigest()
