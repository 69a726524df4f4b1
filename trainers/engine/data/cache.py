"""The cache of latents and text embeddings: what never changes in a training is encoded once.

For each picture it keeps the mean and the standard deviation of its latents, for every crop and
mirror image that the recipe asks for, so that a step still draws fresh latents from the VAE's
posterior. For each caption it keeps the text encoders' output.

The cache is in memory, or on disk, where later trainings of the same base find it; a picture's key
there is made of its bytes and the VAE's weights. Pictures and captions are encoded one at a time:
in a batch, the numbers would depend on which others were in the cache already.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from studio.adapters.token_embeddings import Embeddings
from studio.bases.prompts import PLAIN, PromptReading, TextEmbedding
from studio.dataset.buckets import crop_to_bucket
from studio.dataset.masks import latent_mask, load_mask
from studio.dataset.pictures import Example
from studio.errors import BadInput
from studio.files import write_file
from studio.picture import load_picture
from trainers.engine.data.randomness import generator_for

if TYPE_CHECKING:
    from studio.bases.base import Base

Tensors = dict[str, Tensor]
READER = "picture 2"  # change the number when the same file is read to other pixels than before


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """One crop of one picture, on the CPU in float32."""

    mean: Tensor  # [4, h, w]
    std: Tensor  # [4, h, w]
    time_ids: Tensor | None  # [6], on the base's device
    mask: Tensor | None = None  # [h, w] in 0 .. 1


@dataclass(eq=False)
class Cache:
    """Encoded pictures and captions of one training.

    crops: number of random crops of each picture; 1 is the centre crop. flip: mirror images too.
    folder: where the cache is on disk; None: in memory. background: colour behind transparent
    parts. pieces: the number of pieces that each caption is encoded in.
    """

    base: "Base"
    examples: Sequence[Example]
    _: KW_ONLY
    crops: int
    flip: bool
    folder: Path | None
    background: str = "white"
    reading: PromptReading = PLAIN
    pieces: int = 1

    def __post_init__(self) -> None:
        folder = self.folder
        self._store: dict[str, Tensors] | _DiskStore = _DiskStore(folder) if folder else {}
        # In memory there is one base only, so keys need no hash of its weights.
        self._vae = weights_sha256(self.base.vae) if folder else ""
        self._text_encoders = weights_sha256(*self.base.text_encoders) if folder else ""
        words = self.base.learned_words
        self._words = (_words_sha256(words),) if folder and words else ()

    @property
    def variants(self) -> int:
        """How many crops and mirror images there are of each picture."""
        return self.crops * (2 if self.flip else 1)

    def fill(self, captions: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Encode what is not in the cache yet; yields (done, total) after each."""
        texts = list(dict.fromkeys(captions))
        total = len(self.examples) * self.variants + len(texts)
        done = 0
        for example in self.examples:
            for _ in self._add_variants(example):
                done += 1
                yield done, total
        for text in texts:
            key = self._text_key(text)
            if key not in self._store:
                self._store[key] = self._encode_text(text)
            done += 1
            yield done, total

    def picture(self, number: int, variant: int) -> EncodedPicture:
        """A crop or mirror image of picture `number`."""
        example = self.examples[number]
        entry = self._store[self._picture_key(example, variant)]
        width, height = example.bucket
        top, left = entry["crop"].tolist()
        time_ids = self.base.time_ids(
            original=(example.height, example.width), crop=(top, left), target=(height, width)
        )
        mask = self._store[self._mask_key(example, variant)]["mask"] if example.mask else None
        return EncodedPicture(mean=entry["mean"], std=entry["std"], time_ids=time_ids, mask=mask)

    def text(self, caption: str) -> TextEmbedding:
        """A caption's embeddings, a batch of one."""
        entry = self._store[self._text_key(caption)]
        return TextEmbedding(hidden=entry["hidden"], pooled=entry.get("pooled"))

    def _picture_key(self, example: Example, variant: int) -> str:
        return _key(READER, self.background, self._vae, *self._crop_key(example, variant))

    def _mask_key(self, example: Example, variant: int) -> str:
        factor = self.base.latent_factor
        return _key("mask", example.mask_sha256, factor, *self._crop_key(example, variant))

    def _crop_key(self, example: Example, variant: int) -> tuple[object, ...]:
        """The parts of a key that decide which pixels a variant of a picture has."""
        crop = f"{variant % self.crops} of {self.crops}" if self.crops > 1 else "centre"
        return example.sha256, *example.bucket, crop, self._mirrored(variant)

    def _mirrored(self, variant: int) -> bool:
        return variant >= self.crops

    def _text_key(self, caption: str) -> str:
        # Older caches hold captions that were read so, under keys without the reading.
        usual = self.pieces == 1 and self.reading in (PLAIN, replace(PLAIN, syntax="cut"))
        reading = () if usual else (self.reading, self.pieces)
        return _key(
            "text", self._text_encoders, self.base.zero_negative, caption, *reading, *self._words
        )

    def _add_variants(self, example: Example) -> Iterator[None]:
        """Encode the variants of one picture and its mask. Each file is opened once at most."""
        picture = mask = None
        for variant in range(self.variants):
            key = self._picture_key(example, variant)
            if key not in self._store:
                picture = picture or load_picture(example.path, background=self.background)
                self._store[key] = self._encode(picture, example, variant)
            mask_key = self._mask_key(example, variant)
            if example.mask and mask_key not in self._store:
                mask = mask or load_mask(example)
                top, left = self._store[key]["crop"].tolist()
                area = latent_mask(
                    mask,
                    example,
                    corner=(top, left),
                    flip=self._mirrored(variant),
                    cell=self.base.latent_factor,
                )
                self._store[mask_key] = {"mask": area}
            yield

    def _encode(self, picture: Image.Image, example: Example, variant: int) -> Tensors:
        generator = None
        if self.crops > 1:
            generator = generator_for("crop", example.sha256, variant % self.crops)
        flip = self._mirrored(variant)
        values, corner = crop_to_bucket(picture, example.bucket, flip=flip, generator=generator)
        mean, std = self.base.posterior(values.unsqueeze(0))
        if not torch.isfinite(mean).all():
            raise BadInput(
                f"the base's VAE gives NaN or Inf for {example.path}: load the base in float32 or "
                "bfloat16"
            )
        return {"mean": mean[0].cpu(), "std": std[0].cpu(), "crop": torch.tensor(corner)}

    def _encode_text(self, caption: str) -> Tensors:
        with torch.no_grad():
            text = self.base.encode_text([caption], reading=self.reading, pieces=self.pieces)
        tensors = {"hidden": text.hidden.cpu().contiguous()}
        if text.pooled is not None:
            tensors["pooled"] = text.pooled.cpu().contiguous()
        if not caption and self.base.zero_negative:
            # In drawing, this base takes zeros for an empty prompt.
            tensors = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return tensors


class _DiskStore:
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


def weights_sha256(*modules: nn.Module) -> str:
    """The SHA-256 of all weights of the modules, their names included."""
    return _sha256_of(named for module in modules for named in module.state_dict().items())


def _words_sha256(words: Embeddings) -> str:
    """The SHA-256 of learned words and their vectors."""
    return _sha256_of(
        (f"{word} {encoder}", rows) for word, own in words.items() for encoder, rows in own.items()
    )


def _sha256_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    total = sha256()
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        total.update(bits.numpy())  # pyright: ignore[reportArgumentType]
    return total.hexdigest()


def _key(*parts: object) -> str:
    return sha256("\n".join(map(str, parts)).encode()).hexdigest()
