"""Stable Diffusion in miniature: random weights in the real diffusers layouts, made in a second.

Block types, layer names and conditioning are those of the real models; only the widths, the depth
and the tokenizer's vocabulary are small. Sizes that are equal in the real models but mean
different things (the two text widths of SDXL, the pooled width) differ here, so that a mix-up
shows.
"""

# diffusers annotates its sequences as tuples of one, and schedulers as an enumeration.
# pyright: reportArgumentType=false, reportCallIssue=false

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

__all__ = ["tiny_sd1", "tiny_sd2", "tiny_sdxl", "tokenizer"]

WORDS = "a an the of in on with and photo picture robot cat dog star red blue green style ink sks"
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_sdxl(folder: Path, seed: int = 0, *, layers: int = 2) -> Path:
    """Save a StableDiffusionXLPipeline: 64 x 64 pictures, latents 8 x 8, epsilon prediction.

    layers: of each block. The real one has 2, by which other formats number its blocks; with 1 a
    pass takes two thirds of the time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = tokenizer(pad="<|endoftext|>"), tokenizer(pad="!")
        encoder = _awake(CLIPTextModel(_text_config(first, width=32, act="quick_gelu")))
        encoder_2 = _awake(
            CLIPTextModelWithProjection(_text_config(second, width=48, act="gelu", projection=40))
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64, 64),
            layers_per_block=layers,
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(2, 4, 4),
            cross_attention_dim=32 + 48,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 40,
        )
        vae = _vae(scaling_factor=0.13025, force_upcast=True)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoder,
        text_encoder_2=encoder_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_sd1(folder: Path, seed: int = 0) -> Path:
    """Save a StableDiffusionPipeline in SD 1.5's layout: 64 x 64 pictures, epsilon prediction."""
    scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1)
    return _sd(folder, seed, act="quick_gelu", pad="<|endoftext|>", linear=False, noise=scheduler)


def tiny_sd2(folder: Path, seed: int = 0, *, zero_terminal_snr: bool = False) -> Path:
    """Save a StableDiffusionPipeline in SD 2.1's layout: 64 x 64 pictures, v-prediction."""
    scheduler = DDIMScheduler(
        **NOISE,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing" if zero_terminal_snr else "leading",
    )
    return _sd(folder, seed, act="gelu", pad="!", linear=True, noise=scheduler)


def _sd(
    folder: Path, seed: int, *, act: str, pad: str, linear: bool, noise: SchedulerMixin
) -> Path:
    """Save the layout that SD 1 and SD 2 share; `linear`: SD 2's linear transformer projections."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tokenizer(pad=pad)
        encoder = _awake(CLIPTextModel(_text_config(words, width=32, act=act)))
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=1,
            attention_head_dim=(2, 2, 4, 4) if linear else 2,
            cross_attention_dim=32,
            use_linear_projection=linear,
        )
        vae = _vae(scaling_factor=0.18215, force_upcast=False)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=words,
        unet=unet,
        scheduler=noise,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tokenizer(*, pad: str) -> CLIPTokenizer:
    """CLIP's byte-pair encoding: the words above are one token each, all else is spelled."""
    merges: list[tuple[str, str]] = []
    for word in WORDS.split():
        pieces = [*word[:-1], word[-1] + "</w>"]
        for at in range(1, len(pieces)):
            merges.append(("".join(pieces[:at]), pieces[at]))
    merges = list(dict.fromkeys(merges))
    # CLIP's order: bytes ("!" is number 0, which SDXL and SD 2 pad with), word ends, merges.
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=pad)


def _text_config(
    words: CLIPTokenizer, *, width: int, act: str, projection: int | None = None
) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=act,
        projection_dim=projection or width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def _awake(encoder: CLIPTextModel | CLIPTextModelWithProjection):
    """Untrained embeddings are so near zero that every text would read alike: spread them."""
    with torch.no_grad():
        encoder.get_input_embeddings().weight.normal_(std=0.5)
    return encoder


def _vae(*, scaling_factor: float, force_upcast: bool) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
        scaling_factor=scaling_factor,
        force_upcast=force_upcast,
    )
