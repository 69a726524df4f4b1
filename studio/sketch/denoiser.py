"""The text encoders and UNets of the sketch bases, trained together.

`sketch` has SDXL's layout: two text encoders, of which the last layer but one is used, pooled text
and micro-conditioning. `sketch-sd1` has the layout of SD 1.x, and its text encoder starts from the
second one of `sketch`. Both predict the noise (epsilon) over 1,000 scaled-linear timesteps. The
loss has min-SNR weights (Hang et al. 2023, gamma 5), and a tenth of the captions are left empty.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (the annotations of diffusers and transformers are too narrow)

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPMLP

from studio.sketch.tokenizer import MAX_TOKENS
from studio.sketch.training import EMA, Checkpoints, Report, learning_rate

EMPTY_CAPTIONS = 0.1
MIN_SNR_GAMMA = 5.0


def schedule() -> DDIMScheduler:
    """The noise schedule of both bases.

    It ends with more noise than Stable Diffusion's (beta 0.018 instead of 0.012), because small
    flat pictures show their average colour through more noise than photographs do.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.018,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


@dataclass(frozen=True)
class TrainingData:
    """Latents, and K tokenised captions for each."""

    latents: torch.Tensor  # float16 [N, 4, 16, 16], scaled
    captions: np.ndarray  # int16 [N, K, L]
    empty: np.ndarray  # int16 [L], the tokens of an empty caption


def _text_config(tokenizer: CLIPTokenizer, hidden: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=hidden,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class Denoiser(nn.Module):
    """A UNet and its text encoders, trained as one; predicts the noise from latents and tokens."""

    def __init__(self, unet: UNet2DConditionModel, text_encoders: list[nn.Module]):
        super().__init__()
        self.unet = unet
        self.text_encoders = nn.ModuleList(text_encoders)

    def forward(
        self, noisy: torch.Tensor, time: torch.Tensor, tokens: torch.Tensor, sizes: torch.Tensor
    ) -> torch.Tensor:
        """Predict the noise [B, 4, 16, 16].

        noisy: latents [B, 4, 16, 16]. time: timesteps [B]. tokens: [B, L]. sizes: SDXL's time ids
        [B, 6].
        """
        encoded = [encoder(tokens, output_hidden_states=True) for encoder in self.text_encoders]
        if len(encoded) == 1:
            return self.unet(noisy, time, encoded[0].last_hidden_state).sample
        hidden = torch.cat([one.hidden_states[-2] for one in encoded], dim=-1)
        added = {"text_embeds": encoded[-1].text_embeds, "time_ids": sizes}
        return self.unet(noisy, time, hidden, added_cond_kwargs=added).sample


def sdxl_denoiser(tokenizer: CLIPTokenizer) -> Denoiser:
    """An untrained model in SDXL's layout; its UNet has 11 million parameters."""
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 160),
        layers_per_block=2,
        transformer_layers_per_block=1,
        attention_head_dim=(3, 3, 5),
        cross_attention_dim=256,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + 128,
    )
    encoders = [
        CLIPTextModel(_text_config(tokenizer, 128, 4)),
        CLIPTextModelWithProjection(_text_config(tokenizer, 128, 4)),
    ]
    return Denoiser(unet, encoders)


def sd1_denoiser(text_encoder: CLIPTextModel) -> Denoiser:
    """A model in the layout of SD 1.x: four levels, attention on three of them, one text encoder.

    text_encoder: trained already, see `shrink_text_encoder`. The attention at full resolution has
    one head only, because it takes most of the time of so small a UNet.
    """
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        block_out_channels=(48, 64, 64, 48),
        layers_per_block=1,
        attention_head_dim=(1, 2, 2, 2),
        cross_attention_dim=text_encoder.config.hidden_size,
        norm_num_groups=16,
    )
    return Denoiser(unet, [text_encoder])


def shrink_text_encoder(folder: Path, *, width: int = 448) -> CLIPTextModel:
    """A smaller copy of a trained text encoder, to train further.

    The last layer goes, which SDXL's layout does not use. Of each MLP the `width` hidden units with
    the largest weights stay.
    """
    trained = CLIPTextModel.from_pretrained(folder)
    config = CLIPTextConfig.from_pretrained(folder)
    config.num_hidden_layers -= 1
    config.intermediate_size = width
    small = CLIPTextModel(config)
    for layer in trained.encoder.layers:
        _shrink_mlp(layer.mlp, width)
    names = small.state_dict().keys()
    small.load_state_dict({k: v for k, v in trained.state_dict().items() if k in names})
    return small


def _shrink_mlp(mlp: CLIPMLP, width: int) -> None:
    """Keep the `width` hidden units with the largest weights."""
    magnitude = mlp.fc1.weight.norm(dim=1) * mlp.fc2.weight.norm(dim=0)
    kept = magnitude.topk(width).indices.sort().values
    mlp.fc1.weight.data, mlp.fc1.bias.data = mlp.fc1.weight.data[kept], mlp.fc1.bias.data[kept]
    mlp.fc2.weight.data = mlp.fc2.weight.data[:, kept]


def train(
    denoiser: Denoiser,
    data: TrainingData,
    checkpoints: Checkpoints,
    *,
    steps: int,
    rate: float,
    batch: int = 48,
) -> Iterator[Report]:
    """Train up to `steps`, from the checkpoint if there is one; yields a Report for each step."""
    optimiser = torch.optim.AdamW(
        denoiser.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    ema = EMA(denoiser, horizon=1000)
    start = checkpoints.load(denoiser, optimiser, ema)
    alphas_cumprod = schedule().alphas_cumprod
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak=rate, warmup=300)
        loss = _loss(denoiser, data, alphas_cumprod, batch=batch, step=step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimiser.step()
        ema.update(step)
        yield Report(step + 1, steps, loss.item())
        checkpoints.save(step + 1, steps, denoiser, optimiser, ema)


def _loss(
    denoiser: Denoiser,
    data: TrainingData,
    alphas_cumprod: torch.Tensor,
    *,
    batch: int,
    step: int,
) -> torch.Tensor:
    """The min-SNR weighted error of the predicted noise. The batch depends on `step` alone."""
    generator = torch.Generator().manual_seed(step)
    rng = np.random.default_rng([4, step])
    chosen = rng.integers(len(data.latents), size=batch)
    tokens = data.captions[chosen, rng.integers(data.captions.shape[1], size=batch)]
    tokens[rng.random(batch) < EMPTY_CAPTIONS] = data.empty
    latents = data.latents[chosen].float()
    noise = torch.randn(latents.shape, generator=generator)
    # One timestep from each of `batch` equal slices: less variance than independent draws.
    slices = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    time = (slices * len(alphas_cumprod)).long()
    signal = alphas_cumprod[time].view(-1, 1, 1, 1)
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        # Plain attention: on CPUs the fused one has a five times slower bfloat16 backward pass.
        predicted = denoiser(noisy, time, torch.from_numpy(tokens).long(), _sizes(rng, batch))
    snr = alphas_cumprod[time] / (1 - alphas_cumprod[time])
    weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
    return (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()


def _sizes(rng: np.random.Generator, batch: int) -> torch.Tensor:
    """SDXL's time ids [B, 6]. Half are random, so that the UNet accepts pictures of any size."""
    sizes = np.tile(np.array([64, 64, 0, 0, 64, 64], np.float32), (batch, 1))
    is_random = rng.random(batch) < 0.5
    sizes[is_random, :2] = rng.integers(64, 2048, size=(int(is_random.sum()), 2))
    sizes[is_random, 2:4] = rng.integers(0, 64, size=(int(is_random.sum()), 2))
    return torch.from_numpy(sizes)
