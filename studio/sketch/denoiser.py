"""The text encoders and UNets of the sketch bases, trained together.

`sketch` has SDXL's layout (two text encoders read one layer early, pooled text and
micro-conditioning); `sketch-sd1` has SD 1.x's, and starts from what the second text encoder of
`sketch` has learned to read. Both predict epsilon over 1,000 scaled-linear steps, with min-SNR
weights (Hang et al. 2023, gamma 5) and a tenth of the captions empty.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers and transformers annotate what they take and give too narrowly)

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
from studio.sketch.training import Average, Checkpoints, Report, learning_rate

EMPTY_CAPTIONS = 0.1
MIN_SNR_GAMMA = 5.0


def schedule() -> DDIMScheduler:
    """The noise schedule of both bases.

    It ends noisier than Stable Diffusion's (beta 0.018 instead of 0.012): pictures this small
    and flat keep their average colour through more noise than photographs do.
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
class Lessons:
    """Latents (float16 [N, 4, 16, 16], scaled) and several tokenised captions (int16 [N, K, L])."""

    latents: torch.Tensor
    captions: np.ndarray
    empty: np.ndarray  # int16 [L]


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
    """A UNet with the text encoders it listens to; predicts the noise from latents and tokens."""

    def __init__(self, unet: UNet2DConditionModel, text_encoders: list[nn.Module]):
        super().__init__()
        self.unet = unet
        self.text_encoders = nn.ModuleList(text_encoders)

    def forward(
        self, noisy: torch.Tensor, time: torch.Tensor, tokens: torch.Tensor, sizes: torch.Tensor
    ) -> torch.Tensor:
        """noisy [B, 4, 16, 16], time [B], tokens [B, L], sizes [B, 6] (SDXL's time ids)."""
        read = [encoder(tokens, output_hidden_states=True) for encoder in self.text_encoders]
        if len(read) == 1:
            return self.unet(noisy, time, read[0].last_hidden_state).sample
        hidden = torch.cat([one.hidden_states[-2] for one in read], dim=-1)
        added = {"text_embeds": read[-1].text_embeds, "time_ids": sizes}
        return self.unet(noisy, time, hidden, added_cond_kwargs=added).sample


def sdxl_denoiser(tokenizer: CLIPTokenizer) -> Denoiser:
    """SDXL's layout in small: 11 million UNet parameters."""
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
    """SD 1.x's layout in small: four levels, attention on the first three, one text encoder.

    text_encoder: what it starts from, see `shortened`. Attention over all of a picture's latents
    has one head: it is what a step of so small a UNet spends its time on.
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


def shortened(folder: Path, *, width: int = 448) -> CLIPTextModel:
    """A trained text encoder made smaller, to be trained on.

    It loses its last layer, which SDXL's layout does not read either, and the hidden units of each
    MLP that weigh least: `width` of them are left.
    """
    trained = CLIPTextModel.from_pretrained(folder)
    config = CLIPTextConfig.from_pretrained(folder)
    config.num_hidden_layers -= 1
    config.intermediate_size = width
    small = CLIPTextModel(config)
    for layer in trained.encoder.layers:
        _narrow(layer.mlp, width)
    kept = small.state_dict().keys()
    small.load_state_dict({k: v for k, v in trained.state_dict().items() if k in kept})
    return small


def _narrow(mlp: CLIPMLP, width: int) -> None:
    """Keep the `width` hidden units of largest weights."""
    weigh = mlp.fc1.weight.norm(dim=1) * mlp.fc2.weight.norm(dim=0)
    kept = weigh.topk(width).indices.sort().values
    mlp.fc1.weight.data, mlp.fc1.bias.data = mlp.fc1.weight.data[kept], mlp.fc1.bias.data[kept]
    mlp.fc2.weight.data = mlp.fc2.weight.data[:, kept]


def train(
    denoiser: Denoiser,
    lessons: Lessons,
    checkpoints: Checkpoints,
    *,
    steps: int,
    rate: float,
    batch: int = 48,
) -> Iterator[Report]:
    """Train to `steps`, resuming from the newest checkpoint; the averaged weights are kept."""
    optimiser = torch.optim.AdamW(
        denoiser.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    average = Average(denoiser, horizon=1000)
    start = checkpoints.load(denoiser, optimiser, average)
    kept = schedule().alphas_cumprod
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak=rate, warmup=300)
        loss = _loss(denoiser, lessons, kept, batch=batch, step=step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimiser.step()
        average.update(step)
        yield Report(step + 1, steps, loss.item())
        checkpoints.save(step + 1, steps, denoiser, optimiser, average)


def _loss(
    denoiser: Denoiser, lessons: Lessons, kept: torch.Tensor, *, batch: int, step: int
) -> torch.Tensor:
    """Min-SNR weighted error of the predicted noise, on a batch that depends on `step` alone."""
    generator = torch.Generator().manual_seed(step)
    rng = np.random.default_rng([4, step])
    chosen = rng.integers(len(lessons.latents), size=batch)
    tokens = lessons.captions[chosen, rng.integers(lessons.captions.shape[1], size=batch)]
    tokens[rng.random(batch) < EMPTY_CAPTIONS] = lessons.empty
    latents = lessons.latents[chosen].float()
    noise = torch.randn(latents.shape, generator=generator)
    # One draw from each of `batch` equal slices of the schedule: less variance than free draws.
    slices = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    time = (slices * len(kept)).long()
    signal = kept[time].view(-1, 1, 1, 1)
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        # The maths path: the fused attention's bfloat16 backward is five times slower on CPUs.
        predicted = denoiser(noisy, time, torch.from_numpy(tokens).long(), _sizes(rng, batch))
    snr = kept[time] / (1 - kept[time])
    weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
    return (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()


def _sizes(rng: np.random.Generator, batch: int) -> torch.Tensor:
    """SDXL's time ids [B, 6]; half of them arbitrary, so that a user's picture of any size fits."""
    sizes = np.tile(np.array([64, 64, 0, 0, 64, 64], np.float32), (batch, 1))
    arbitrary = rng.random(batch) < 0.5
    sizes[arbitrary, :2] = rng.integers(64, 2048, size=(int(arbitrary.sum()), 2))
    sizes[arbitrary, 2:4] = rng.integers(0, 64, size=(int(arbitrary.sum()), 2))
    return torch.from_numpy(sizes)
