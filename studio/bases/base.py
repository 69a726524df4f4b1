"""A frozen text-to-image model: its parts, its layers, and the few calls that run it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from studio.adapters.token_embeddings import (
    TEXT_ENCODERS,
    Embeddings,
    embedding_table,
    learned_rows,
    token_numbers,
)
from studio.bases.architecture import JSON, check_unet, read_json
from studio.bases.diffusers_folder import open_folder
from studio.bases.names import BUNDLED_BASES
from studio.bases.resolve import find_source
from studio.bases.single_file import CONFIGS, open_single_file
from studio.errors import BadInput

__all__ = [
    "REAL_CONFIGS",
    "SCHEDULERS",
    "Base",
    "Scheduler",
    "TextEmbedding",
    "load_base",
    "real_config",
]

REAL_CONFIGS = ("sd15", "sd21", "sdxl")
SCHEDULERS = ("euler", "ddim", "dpmpp_2m", "unipc")
Scheduler = (
    EulerDiscreteScheduler
    | DDIMScheduler
    | DPMSolverMultistepScheduler
    | UniPCMultistepScheduler
    | PNDMScheduler
)
Configured = TypeVar("Configured", bound=ConfigMixin)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """Encoded prompts. hidden: [B, L, D]; pooled: [B, P], SDXL only."""

    hidden: Tensor
    pooled: Tensor | None = None


@dataclass(eq=False)
class Base:
    """A frozen base. `load_base` makes one; its weights are lent to callers, never changed.

    source: what it was loaded from; a path in full.  family: "sd1", "sd2" or "sdxl".
    noise: the configuration of its own scheduler.
    dtype: of UNet and text encoders; the VAE may be wider (see `load_base`).
    zero_negative: an empty negative prompt stands for zeros, not for the encoded empty text.
    offload: only the part at work is on `device`, the others wait on the CPU.
    words: what prompts may say besides, just now; see `studio.adapters.token_embeddings.spoken`.
    """

    source: str
    name: str
    family: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    tokenizers: tuple[CLIPTokenizer, ...]
    text_encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]
    noise: JSON
    device: torch.device
    dtype: torch.dtype
    offload: bool = False
    zero_negative: bool = False
    words: Embeddings = field(default_factory=dict, init=False, repr=False)
    _layers: dict[str, nn.Module] = field(default_factory=dict, init=False, repr=False)
    _fingerprint: str = field(default="", init=False, repr=False)

    @property
    def precision(self) -> str:
        """The dtype by the name that `load_base` takes: fp32, fp16 or bf16."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon" or "v_prediction"."""
        return str(self.noise.get("prediction_type", "epsilon"))

    @property
    def latent_factor(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def size(self) -> int:
        """The side, in pixels, of the square pictures it was trained on."""
        return self.unet.config["sample_size"] * self.latent_factor

    @property
    def step(self) -> int:
        """Sides of pictures are multiples of this many pixels, so that the UNet halves evenly."""
        return self.latent_factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Share of signal at each training timestep: [T], float32; the last may be exactly 0."""
        return _made(DDPMScheduler, self.noise).alphas_cumprod.to(self.device, torch.float32)

    def layers(self) -> dict[str, nn.Module]:
        """Every nn.Linear and nn.Conv2d that an adapter can change, by its name on disk.

        Names are "unet." or "text_encoder." or "text_encoder_2." and the module's path, as
        diffusers writes them: CLIP's first level is always spelled "text_model.", which newer
        transformers leave out of the module tree.
        """
        if not self._layers:
            self._layers = dict(_adaptable("unet", self.unet))
            for number, encoder in enumerate(self.text_encoders):
                prefix = TEXT_ENCODERS[number]
                inner = "" if hasattr(encoder, "text_model") else ".text_model"
                self._layers |= _adaptable(prefix + inner, encoder)
        return self._layers

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode prompts as the diffusers pipelines do; longer ones are cut to the model's length.

        SDXL: the last layer but one of both encoders, side by side, and the second's pooled
        projection. SD: the last hidden state. Gradients flow, so that text encoders can be
        adapted; wrap in torch.no_grad() where none are wanted.

        texts: B prompts.  Returns hidden [B, L, D] and pooled [B, P] or None, in `dtype`.
        """
        self.bring(*self.text_encoders)
        hidden: list[Tensor] = []
        pooled = None
        both = zip(TEXT_ENCODERS, self.tokenizers, self.text_encoders, strict=False)
        for name, tokenizer, encoder in both:
            words = {token: own[name] for token, own in self.words.items() if name in own}
            numbers, mask = token_numbers(tokenizer, texts, words)
            masked = getattr(encoder.config, "use_attention_mask", False)
            with learned_rows(embedding_table(encoder), words):
                read = encoder(
                    numbers.to(self.device),
                    attention_mask=mask.to(self.device) if masked else None,
                    output_hidden_states=self.family == "sdxl",
                )
            sdxl = self.family == "sdxl"
            hidden.append(read.hidden_states[-2] if sdxl else read.last_hidden_state)
            if isinstance(encoder, CLIPTextModelWithProjection):
                pooled = read.text_embeds
        return TextEmbedding(torch.cat(hidden, dim=-1), pooled if self.family == "sdxl" else None)

    @torch.no_grad()
    def encode_pictures(
        self, pixels: Tensor, *, generator: torch.Generator | None = None, sample: bool = True
    ) -> Tensor:
        """Latents of pictures, scaled as the UNet expects them.

        pixels: [B, 3, H, W] in -1 .. 1, sides multiples of `latent_factor`.
        generator: draws from the VAE's posterior; with sample=False its mode is taken.
        Returns [B, 4, H/f, W/f], float32.
        """
        drawn = self._posterior(pixels)
        latents = drawn.sample(generator) if sample else drawn.mode()
        return latents.float() * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents that `encode_pictures` draws.

        pixels: [B, 3, H, W] in -1 .. 1.  Returns two of [B, 4, H/f, W/f], float32, scaled.
        """
        drawn, factor = self._posterior(pixels), self.vae.config["scaling_factor"]
        return drawn.mean.float() * factor, drawn.std.float() * factor

    def _posterior(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        self.bring(self.vae)
        return self.vae.encode(pixels.to(self.device, self.vae.dtype), return_dict=False)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents. A VAE that overflows in half precision is widened, for good.

        latents: [B, 4, h, w], scaled.  Returns [B, 3, h*f, w*f], float32 in 0 .. 1.
        """
        self.bring(self.vae)
        scaled = latents.to(self.device, torch.float32) / self.vae.config["scaling_factor"]
        decoded = self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0]
        if self.vae.dtype != torch.float32 and not torch.isfinite(decoded).all():
            nn.Module.float(self.vae)
            decoded = self.vae.decode(scaled, return_dict=False)[0]
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def time_ids(
        self, *, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]
    ) -> Tensor | None:
        """SDXL's micro-conditioning (Podell et al. 2023, section 2.2); None for SD 1.x and 2.x.

        original: (height, width) of the source.  crop: (top, left) of the cut.
        target: (height, width) of the cut.  Returns [6], float32.
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
        """One call of the UNet.

        latents: [B, 4, h, w], noisy and scaled as the scheduler gives them.
        timestep: one number, or [B].  text: of B prompts.
        time_ids: [6] or [B, 6]; None means uncropped pictures of the latents' own size.
        Returns [B, 4, h, w], float32: noise or velocity, see `prediction_type`.
        """
        self.bring(self.unet)
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

    def scheduler(self, name: str | None = None) -> Scheduler:
        """A fresh scheduler on this base's noise schedule: one of SCHEDULERS, or its own (None).

        Raises BadInput for another name.
        """
        config = dict(self.noise)
        if name is None:
            return _made(getattr(diffusers, str(config["_class_name"])), config)
        if name == "euler":
            return _made(EulerDiscreteScheduler, config)
        if name == "ddim":
            # Latents lie outside -1 .. 1: DDIM's defaults are for pixels.
            config |= {"clip_sample": False}
            config.setdefault("set_alpha_to_one", False)
            return _made(DDIMScheduler, config)
        if name == "dpmpp_2m":
            config |= {"algorithm_type": "dpmsolver++", "solver_order": 2}
            return _made(DPMSolverMultistepScheduler, config)
        if name == "unipc":
            return _made(UniPCMultistepScheduler, config | {"solver_order": 2})
        raise BadInput(f"There is no scheduler {name!r}: choose {', '.join(SCHEDULERS)}.")

    def fingerprint(self) -> str:
        """Which UNet this is: sha256 over names, shapes and signs of its weights.

        Signs survive rounding, so one base has one fingerprint in float32, float16 and bfloat16,
        while any fine-tune turns some of its billions. Computed once; ask while nothing is folded.
        """
        if not self._fingerprint:
            digest = hashlib.sha256()
            for name, weight in sorted(self.unet.state_dict().items()):
                digest.update(f"{name} {tuple(weight.shape)}\n".encode())
                digest.update(_packed(torch.signbit(weight).flatten()).cpu().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def bring(self, *parts: nn.Module) -> None:
        """When offloading, put these parts on the device and all others on the CPU."""
        if not self.offload:
            return
        everything: list[nn.Module] = [self.unet, self.vae, *self.text_encoders]
        for part in everything:
            if part not in parts:
                part.to("cpu")
        for part in parts:
            part.to(self.device)


def _adaptable(prefix: str, root: nn.Module) -> Mapping[str, nn.Module]:
    return {
        f"{prefix}.{path}": module
        for path, module in root.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def _made(kind: type[Configured], config: JSON) -> Configured:
    """One of diffusers' classes from its configuration; what it does not know is left out."""
    made = kind.from_config(config)
    assert isinstance(made, kind)
    return made


def _packed(bits: Tensor) -> Tensor:
    """Eight booleans to a byte, the tail padded with zeros: bool [n] -> uint8 [ceil(n / 8)]."""
    padded = nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).view(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    return (padded * powers).sum(dim=1, dtype=torch.uint8)


def load_base(
    source: str | Path = "sketch",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    attention: str = "sdpa",
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    offload: bool = False,
    prediction: str = "auto",
) -> Base:
    """Open a base of the SD 1.x, SD 2.x or SDXL family, frozen.

    source: "sketch", "sketch-sd1", a folder in the diffusers layout, a .safetensors checkpoint in
        the original layout, or a Hugging Face id, downloaded only where it is not in the cache.
    device: "auto" is the GPU, where there is one.
    dtype: "fp32", "fp16" or "bf16"; "auto" is fp16 on a GPU and fp32 elsewhere. In fp16 a VAE
        whose configuration asks for it (`force_upcast`, SDXL's does) stays in fp32.
    attention: "sdpa" (PyTorch's own) or "xformers".
    vae_slicing, vae_tiling: decode picture by picture, or in tiles: slower, in less memory.
    offload: keep on the GPU only the part at work; for small GPUs.
    prediction: "epsilon" or "v_prediction", for single files that do not say what they predict.

    Raises BadInput for whatever of this cannot be had, before weights are read where possible.
    """
    where = _device(device)
    precision = _dtype(dtype, where)
    _check_attention(attention, where)
    if offload and where.type != "cuda":
        raise BadInput(
            "offload moves parts between the CPU and a GPU, but the device is "
            f"{where.type}: leave it out."
        )
    if prediction not in ("auto", *PREDICTIONS):
        raise BadInput(f"prediction is {prediction!r}: choose auto, {' or '.join(PREDICTIONS)}.")
    path = find_source(source, half=precision != torch.float32)
    if path.is_dir():
        parts = open_folder(path, precision)
        if prediction != "auto":
            parts.noise["prediction_type"] = prediction
    else:
        parts = open_single_file(path, precision, prediction=prediction)
    _check_noise(parts.noise, str(path))
    if vae_slicing:
        parts.vae.enable_slicing()
    if vae_tiling:
        parts.vae.enable_tiling()
    if attention == "xformers":
        parts.unet.enable_xformers_memory_efficient_attention()
        parts.vae.enable_xformers_memory_efficient_attention()
    if not offload:
        everything: list[nn.Module] = [parts.unet, parts.vae, *parts.text_encoders]
        for part in everything:
            part.to(where)
    return Base(
        source=_source(source, path),
        name=_name(source, path),
        family=parts.family,
        unet=parts.unet,
        vae=parts.vae,
        tokenizers=parts.tokenizers,
        text_encoders=parts.text_encoders,
        noise=parts.noise,
        device=where,
        dtype=precision,
        offload=offload,
        zero_negative=parts.zero_negative,
    )


def _source(source: str | Path, path: Path) -> str:
    """What opens the same base again, wherever that is asked."""
    here = str(source) not in BUNDLED_BASES and Path(source).expanduser().exists()
    return str(path.resolve()) if here else str(source)


def _name(source: str | Path, path: Path) -> str:
    """What to call a base: its folder or file, or the id it was downloaded by."""
    if not Path(source).expanduser().exists():
        return str(source)
    return path.resolve().name if path.is_dir() else path.stem


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"There is no device {device!r}: give auto, cpu or cuda.") from error
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"PyTorch sees no GPU {str(device)!r} here: use --device cpu.")
    return where


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise BadInput(f"There is no precision {str(dtype)!r}: choose auto, {', '.join(DTYPES)}.")
    return DTYPES[str(dtype)]


def _check_attention(attention: str, device: torch.device) -> None:
    if attention not in ("sdpa", "xformers"):
        raise BadInput(f"There is no attention {attention!r}: choose sdpa or xformers.")
    if attention == "xformers" and find_spec("xformers") is None:
        raise BadInput(
            "attention is xformers but that is not installed: run `pip install xformers`, or "
            "leave it at sdpa."
        )
    if attention == "xformers" and device.type != "cuda":
        raise BadInput("xformers attention needs an NVIDIA GPU: leave it at sdpa.")


def _check_noise(noise: JSON, where: str) -> None:
    """Refuse what was not trained on a beta schedule to predict noise or velocity."""
    kind = str(noise.get("_class_name"))
    if kind not in KarrasDiffusionSchedulers.__members__:
        raise BadInput(f"{where} has a scheduler {kind}, which is not of the SD family.")
    if noise.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise BadInput(
            f"{where} predicts {noise['prediction_type']!r}: bases predict epsilon or v_prediction."
        )


def real_config(name: str, *, dtype: str = "fp32") -> Base:
    """The real SD 1.5 ("sd15"), SD 2.1 ("sd21") or SDXL ("sdxl") on the meta device.

    Every layer has its true name and shape and no storage, to count and to match keys; without
    tokenizers. dtype: as `load_base` takes it. Raises BadInput for another name.
    """
    if name not in REAL_CONFIGS:
        raise BadInput(f"There is no configuration {name!r}: choose {', '.join(REAL_CONFIGS)}.")
    folder = CONFIGS / name
    unet = read_json(folder / "unet" / "config.json")
    family = check_unet(unet, name)
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    precision = _dtype(dtype, _device("auto"))
    with torch.device("meta"):
        base = Base(
            source=name,
            name=name,
            family=family,
            unet=_made(UNet2DConditionModel, unet),
            vae=_made(AutoencoderKL, read_json(folder / "vae" / "config.json")),
            tokenizers=(),
            text_encoders=tuple(
                kind(CLIPTextConfig.from_pretrained(folder / part, local_files_only=True))
                for part, kind in kinds.items()
                if (folder / part).is_dir()
            ),
            noise=read_json(folder / "scheduler" / "scheduler_config.json"),
            device=torch.device("meta"),
            dtype=precision,
        )
    upcast = precision == torch.float16 and base.vae.config["force_upcast"]
    for part in (base.unet, *base.text_encoders, *(() if upcast else (base.vae,))):
        nn.Module.to(part, precision)
    return base
