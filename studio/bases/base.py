"""A frozen text-to-image model: its parts, its layers, and the few calls that run it."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from transformers import CLIPTokenizer

from studio.adapters.delta import swap_weights
from studio.adapters.token_embeddings import TEXT_ENCODERS, Embeddings
from studio.bases.architecture import Config
from studio.bases.device import PRECISIONS, has_own_memory, release_unused
from studio.bases.prompts import (
    PLAIN,
    PromptReading,
    TextEmbedding,
    TextEncoder,
    TextReader,
    encode_prompts,
)
from studio.bases.quantized.layers import quantize_layers
from studio.bases.schedulers import Scheduler, from_config, new_scheduler
from studio.bases.vae_tiles import shrink_tiles
from studio.errors import BadInput
from studio.out_of_memory import is_out_of_memory
from studio.requests.prompt_syntax import PromptSyntax

LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(eq=False, kw_only=True)
class Parts:
    """The models, tokenizers and configuration that a base's files hold.

    family: "sd1", "sd2" or "sdxl".  scheduler_config: the configuration of its own scheduler.
    zero_negative: an empty negative prompt means zeros, not the encoded empty text.
    """

    family: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    tokenizers: tuple[CLIPTokenizer, ...]
    text_encoders: tuple[TextEncoder, ...]
    scheduler_config: Config
    zero_negative: bool = False

    def modules(self) -> tuple[nn.Module, ...]:
        """The UNet, the VAE and the text encoders."""
        return (self.unet, self.vae, *self.text_encoders)


@dataclass(eq=False, kw_only=True)
class Base(Parts):
    """A frozen base, opened by `studio.load_base`. Nothing changes its weights permanently.

    source: what it was loaded from; a path is a full one.
    dtype: that of UNet and text encoders; the VAE may have a wider one (see `load_base`).
    quantize: how most of the UNet's weights are stored, "fp8", "nf4" or "none"; see
        `store_quantized`. They are dequantized to `dtype` whenever they are used.
    offload: only the part in use is on `device`, the others are on the CPU.
    vae_source: full path of a VAE that replaces the base's own; empty for its own.
    low_memory: whatever can be computed again is not kept on the device.
    cuda_graphs: whether small pictures may be computed with CUDA graphs.
    learned_words: the vectors of learned words that prompts may use now; see `use_embeddings`.
    set_aside: parts that leave the device while the UNet runs, and come back when needed.
    altered: whether the base has other weights than its own now; see `use_weights`.
    """

    source: str
    name: str
    device: torch.device
    dtype: torch.dtype
    quantize: str = "none"
    offload: bool = False
    vae_source: str = ""
    low_memory: bool = False
    cuda_graphs: bool = True
    learned_words: Embeddings = field(default_factory=dict, init=False, repr=False)
    set_aside: tuple[nn.Module, ...] = field(default=(), init=False, repr=False)
    _vae_alone: bool = field(default=False, init=False, repr=False)
    altered: bool = field(default=False, init=False, repr=False)
    _layers: dict[str, nn.Module] = field(default_factory=dict, init=False, repr=False)
    _with_norms: dict[str, nn.Module] = field(default_factory=dict, init=False, repr=False)
    _fingerprint: str = field(default="", init=False, repr=False)

    @property
    def precision(self) -> str:
        """The dtype by the name that `load_base` takes: fp32, fp16 or bf16."""
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    @property
    def stored(self) -> dict[str, str]:
        """The entry of a recipe for quantized weights; empty where they are not quantized."""
        return {} if self.quantize == "none" else {"quantize": self.quantize}

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon" or "v_prediction"."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    @property
    def latent_factor(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def latent_side(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the latents of a picture of this size."""
        return height // self.latent_factor, width // self.latent_factor

    @property
    def size(self) -> int:
        """The side, in pixels, of the square pictures that the base was trained on."""
        return self.unet.config["sample_size"] * self.latent_factor

    @property
    def step(self) -> int:
        """Pixels of which picture sides are multiples, so that the UNet can halve them evenly."""
        return self.latent_factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Share of signal at each training timestep: [T], float32; the last may be exactly 0."""
        scheduler = from_config(DDPMScheduler, self.scheduler_config)
        return scheduler.alphas_cumprod.to(self.device, torch.float32)

    def layers(self) -> dict[str, nn.Module]:
        """Every nn.Linear and nn.Conv2d by its name in files; these are what trainings change.

        A name is "unet.", "text_encoder." or "text_encoder_2." and the module's path, as diffusers
        writes them. CLIP's paths always begin with "text_model.", a level that newer versions of
        transformers left out of the module tree.
        """
        if not self._layers:
            self._layers = self._modules(nn.Linear, nn.Conv2d)
        return self._layers

    def layers_and_norms(self) -> dict[str, nn.Module]:
        """Every module that an adapter's file can change: `layers` and normalisations, by name."""
        if not self._with_norms:
            norms = self._modules(nn.LayerNorm, nn.GroupNorm)
            self._with_norms = self.layers() | {
                name: norm for name, norm in norms.items() if norm.weight is not None
            }
        return self._with_norms

    def _modules(self, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
        modules = _modules_of("unet", self.unet, kinds)
        for number, encoder in enumerate(self.text_encoders):
            level = "" if hasattr(encoder, "text_model") else ".text_model"
            modules |= _modules_of(TEXT_ENCODERS[number] + level, encoder, kinds)
        return modules

    def encode_text(
        self,
        texts: Sequence[str],
        *,
        reading: PromptReading = PLAIN,
        pieces: int = 1,
    ) -> TextEmbedding:
        """Encode prompts of any length as the diffusers pipelines do; see `encode_prompts`.

        Gradients flow, so that text encoders can be trained: wrap in torch.no_grad() elsewhere.

        texts: B prompts.  pieces: the least number of pieces, see `count_pieces`.
        Returns hidden [B, L, D] and pooled [B, P] or None, in `dtype`. Raises BadInput for a prompt
        that can't be read, and for a clip skip of more layers than a text encoder has.
        """
        self.check_clip_skip(reading.clip_skip)
        self.move_to_device(*self.text_encoders)
        return encode_prompts(
            texts,
            self._readers(),
            sdxl=self.family == "sdxl",
            device=self.device,
            reading=reading,
            pieces=pieces,
        )

    def count_pieces(self, texts: Sequence[str], syntax: PromptSyntax) -> int:
        """The number of pieces in which the longest of these prompts is encoded."""
        counts = (len(one.pieces(text, syntax)) for one in self._readers() for text in texts)
        return max(counts, default=1)

    def count_tokens(self, text: str, syntax: PromptSyntax) -> int:
        """The number of tokens in a text's first piece, by the tokenizer that finds most."""
        return max(len(one.pieces(text, syntax)[0].numbers) for one in self._readers())

    def token_places(self, text: str, wanted: str, syntax: PromptSyntax) -> list[int]:
        """The positions of the wanted words' tokens in an encoded prompt; see `PromptReader`."""
        return self._readers()[0].places(text, wanted, syntax)

    def check_clip_skip(self, clip_skip: int | None) -> None:
        """Raise BadInput for a clip skip of more layers than some text encoder has."""
        layers = min((e.config.num_hidden_layers for e in self.text_encoders), default=1)
        if clip_skip is not None and clip_skip > layers:
            raise BadInput(
                f"clip_skip is {clip_skip}, and a text encoder of {self.name} has {layers} layers: "
                "give less"
            )

    def cut_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens the syntax "cut" leaves out of the longest of these prompts."""
        return max((one.count_cut(text) for one in self._readers() for text in texts), default=0)

    def _readers(self) -> list[TextReader]:
        """The text encoders, each with its tokenizer and the learned words that it has."""
        parts = zip(TEXT_ENCODERS, self.tokenizers, self.text_encoders, strict=False)
        learned = self.learned_words.items()
        return [
            TextReader(tokenizer, {w: rows[name] for w, rows in learned if name in rows}, encoder)
            for name, tokenizer, encoder in parts
        ]

    @contextmanager
    def use_embeddings(self, embeddings: Embeddings) -> Iterator[None]:
        """Within the block, replace these tokens in prompts by their learned vectors."""
        before = self.learned_words
        self.learned_words = {**before, **embeddings}
        try:
            yield
        finally:
            self.learned_words = before

    @contextmanager
    def use_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the block, replace weights of layers and biases, as `swap_weights` does."""
        self.fingerprint()  # while the weights are still the base's own
        before, self.altered = self.altered, self.altered or bool(weights)
        try:
            with swap_weights(self.layers_and_norms(), weights):
                yield
        finally:
            self.altered = before

    def store_quantized(self) -> None:
        """Quantize the UNet's weights as `quantize` says, permanently; see `quantize_layers`.

        Text encoders and VAE stay as they are. Call it once, before the base is used.
        """
        quantize_layers(self.layers(), self.quantize, self.device)

    @torch.no_grad()
    def encode_pictures(
        self, pixels: Tensor, *, generator: torch.Generator | None = None, sample: bool = True
    ) -> Tensor:
        """Latents of pictures, scaled as the UNet expects them.

        pixels: [B, 3, H, W] in -1 .. 1, sides multiples of `latent_factor`.
        sample: draw from the VAE's posterior, with `generator`; False: take the posterior's mode.
        Returns [B, 4, H/f, W/f], float32.
        """
        posterior = self._posterior(pixels)
        latents = posterior.sample(generator) if sample else posterior.mode()
        return latents.float() * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents that `encode_pictures` draws.

        pixels: [B, 3, H, W] in -1 .. 1.  Returns two of [B, 4, H/f, W/f], float32, scaled.
        """
        posterior, factor = self._posterior(pixels), self.vae.config["scaling_factor"]
        return posterior.mean.float() * factor, posterior.std.float() * factor

    def _posterior(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        return self._run_vae(
            lambda: self.vae.encode(pixels.to(self.device, self.vae.dtype), return_dict=False)[0]
        )

    @torch.no_grad()
    def decode(self, latents: Tensor, *, alone: bool = True) -> Tensor:
        """Pictures from latents. A VAE that overflows in half precision becomes float32 for good.

        latents: [B, 4, h, w], scaled. alone: whether nothing else runs on this base meanwhile, so
        that other parts may leave the device where memory runs out.
        Returns [B, 3, h*f, w*f], float32 in 0 .. 1.
        """
        return self._run_vae(lambda: self._decode(latents), alone=alone)

    def decode_with_gradients(self, latents: Tensor) -> Tensor:
        """`decode` with gradients, to learn from pictures. No other part leaves the device."""
        _move(self.vae, self.device)
        return self._decode(latents)

    def _decode(self, latents: Tensor) -> Tensor:
        scaled = latents.to(self.device, torch.float32) / self.vae.config["scaling_factor"]
        decoded = self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0]
        if self.vae.dtype != torch.float32 and not torch.isfinite(decoded).all():
            nn.Module.float(self.vae)
            decoded = self.vae.decode(scaled, return_dict=False)[0]
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def _run_vae(self, run: Callable[[], T], *, alone: bool = True) -> T:
        """Run the VAE. Where memory runs out, try again without the other parts, then in tiles."""
        while True:
            if alone and self._vae_alone:
                for part in (self.unet, *self.text_encoders):
                    _move(part, torch.device("cpu"))
            try:
                self.move_to_device(self.vae)
                return run()
            except (MemoryError, RuntimeError) as error:
                if not (alone and is_out_of_memory(error) and self._make_room_for_vae()):
                    raise
            release_unused(self.device)

    def _make_room_for_vae(self) -> bool:
        """Choose the next way that takes less memory. False where there is none left."""
        if not has_own_memory(self.device):
            return False
        if not self._vae_alone:
            self._vae_alone = True
            LOG.warning("Memory ran out: the UNet now leaves the GPU while the VAE is at work.")
            return True
        return shrink_tiles(self.vae)

    def time_ids(
        self, *, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]
    ) -> Tensor | None:
        """SDXL's micro-conditioning (Podell et al. 2023, section 2.2); None for SD 1.x and 2.x.

        original: (height, width) of the source picture.  crop: (top, left) of the crop in it.
        target: (height, width) of the crop.  Returns [6], float32.
        """
        if self.family != "sdxl":
            return None
        return torch.tensor([*original, *crop, *target], dtype=torch.float32, device=self.device)

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor | int,
        text: TextEmbedding,
        *,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """Call the UNet once.

        latents: [B, 4, h, w], noisy and scaled as the scheduler gives them.
        timestep: one number, or [B].  text: the embeddings of B prompts.
        time_ids: [6] or [B, 6]; None means uncropped pictures of the latents' own size.
        Returns [B, 4, h, w], float32: noise or velocity, see `prediction_type`.
        """
        self.move_to_device(self.unet)
        added = None
        if self.family == "sdxl":
            if time_ids is None:
                side = tuple(self.latent_factor * n for n in latents.shape[-2:])
                time_ids = torch.tensor([*side, 0, 0, *side], dtype=torch.float32)
            ids = time_ids.to(self.device).expand(latents.shape[0], 6)
            added = {"text_embeds": text.pooled, "time_ids": ids}
        predicted = self.unet(
            latents.to(self.device, self.dtype),
            timestep,
            encoder_hidden_states=text.hidden,
            added_cond_kwargs=added,
        ).sample
        return predicted.float()

    def scheduler(self, name: str | None = None, spacing: str | None = None) -> Scheduler:
        """A new scheduler with this base's noise schedule: one of SCHEDULERS; None is its own.

        spacing: one of SPACINGS; None is the base's own. Raises BadInput for another name, and for
        a spacing that the scheduler doesn't have.
        """
        return new_scheduler(self.scheduler_config, name, spacing)

    def fingerprint(self) -> str:
        """A SHA-256 of the names, shapes and signs of the UNet's weights, in hexadecimal.

        Signs survive rounding, so a base has one fingerprint in float32, float16 and bfloat16,
        while any fine-tune flips some of its billions of signs. It is computed once: make the first
        call while the weights are the base's own.
        """
        if not self._fingerprint:
            digest = hashlib.sha256()
            for name, weight in sorted(self.unet.state_dict().items()):
                digest.update(f"{name} {tuple(weight.shape)}\n".encode())
                digest.update(_pack_bits(torch.signbit(weight).flatten()).cpu().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @property
    def parts_move(self) -> bool:
        """Whether parts may leave the device and come back to other addresses of its memory."""
        return self.offload or self._vae_alone or bool(self.set_aside)

    @contextmanager
    def put_aside(self, *parts: nn.Module) -> Iterator[None]:
        """Within the block, these parts leave the GPU while the UNet runs."""
        before = self.set_aside
        if has_own_memory(self.device):
            self.set_aside = (*before, *parts)
        try:
            yield
        finally:
            self.set_aside = before
            if not self.offload:
                with suppress(torch.OutOfMemoryError):  # then each part comes when it is needed
                    self.move_to_device(*parts)

    def move_to_device(self, *parts: nn.Module) -> None:
        """Move these parts to the device.

        With `offload`, all other parts go to the CPU. Otherwise, where the UNet is among these
        parts, those that are set aside go to the CPU.
        """
        aside = self.set_aside if self.unet in parts else ()
        for part in self.modules() if self.offload else aside:
            if part not in parts:
                _move(part, torch.device("cpu"))
        for part in parts:
            _move(part, self.device)


def _move(part: nn.Module, device: torch.device) -> None:
    """Move a part to a device. Where memory runs out, all of it goes back to where it was."""
    first = next(part.parameters(), None)
    if first is None or first.device.type == device.type:
        return
    before = first.device
    try:
        part.to(device)
    except (MemoryError, RuntimeError):
        part.to(before)  # PyTorch moves tensor by tensor, and has moved some of them already
        raise


def _modules_of(
    prefix: str, root: nn.Module, kinds: tuple[type[nn.Module], ...]
) -> dict[str, nn.Module]:
    return {
        f"{prefix}.{path}": module
        for path, module in root.named_modules()
        if isinstance(module, kinds)
    }


def _pack_bits(bits: Tensor) -> Tensor:
    """Eight booleans to a byte, the tail padded with zeros: bool [n] -> uint8 [ceil(n / 8)]."""
    padded = nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).view(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    return (padded * powers).sum(dim=1, dtype=torch.uint8)
