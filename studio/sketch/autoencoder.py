"""The VAE of the sketch bases: from pictures of 128 x 128 x 3 to latents of 32 x 32 x 4.

It is trained on everything that can be drawn, including held-out styles, and on random textures.
Crops come first, because they are cheap and varied. Whole pictures come last, so that the group
norms see pictures of the size that they will have in use.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (the annotations of diffusers and transformers are too narrow)

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from studio.sketch.art import SIDE
from studio.sketch.draw import to_pixels
from studio.sketch.training import (
    EMA,
    Checkpoints,
    Optimizers,
    Report,
    fast_autocast,
    learning_rate,
    to_tensor,
)

CROP = 32
WHOLE_PICTURES_FROM = 0.7  # share of the training that uses crops
KL_WEIGHT = 1e-5
# Opponent colours, orthonormal: brightness, red against green, yellow against blue. Hue varies less
# than brightness and is learned last, so it weighs more early in training and the same at the end.
OPPONENT = F.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]))
HUE_WEIGHT = 3.0
UNSEEN = 1000  # pictures at the end of the corpus, held out for measuring
# Noise on latents in training, as a share of their standard deviation, so that the decoder hides
# small errors of a UNet.
LATENT_NOISE = 0.02


def autoencoder() -> AutoencoderKL:
    """A small untrained VAE in Stable Diffusion's layout; it shrinks by 4 instead of 8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )


def train(
    pictures: np.ndarray, checkpoints: Checkpoints, *, rate: float = 4e-3
) -> Iterator[Report]:
    """Train the VAE, from the checkpoint if there is one; yields a Report for each step.

    pictures: uint8 [N, 128, 128, 3]; the last UNSEEN are left alone.
    """
    torch.manual_seed(0)
    vae = autoencoder()
    optimizers = Optimizers(vae, plain=("conv_in", "conv_out", "quant_conv"))
    ema = EMA(vae, horizon=500)
    step = checkpoints.load(vae, optimizers, ema)
    while (share := checkpoints.share(step)) < 1:
        rng = np.random.default_rng([3, step])
        batch = _batch(pictures, rng, whole=share >= WHOLE_PICTURES_FROM)
        optimizers.set_rate(learning_rate(share, peak=rate))
        hue = 1 + HUE_WEIGHT * max(0.0, 1 - 2 * share)
        loss, error = _loss(vae, batch, torch.Generator().manual_seed(step), hue=hue)
        loss.backward()
        optimizers.step()
        ema.update(step)
        step += 1
        yield Report(step, checkpoints.share(step), float(-10 * torch.log10(error / 4)))
        checkpoints.save(step, vae, optimizers, ema)


def _batch(pictures: np.ndarray, rng: np.random.Generator, *, whole: bool) -> torch.Tensor:
    """Crops or whole pictures, in [-1, 1]."""
    chosen = rng.integers(len(pictures) - UNSEEN, size=6 if whole else 64)
    batch = pictures[np.sort(chosen)]
    if not whole:
        corners = rng.integers(0, SIDE - CROP + 1, size=(len(batch), 2))
        batch = np.stack(
            [
                picture[top : top + CROP, left : left + CROP]
                for picture, (top, left) in zip(batch, corners, strict=True)
            ]
        )
    return to_tensor(batch)


def _loss(
    vae: AutoencoderKL, pictures: torch.Tensor, generator: torch.Generator, *, hue: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The training loss and the mean squared error of pictures in [-1, 1]."""
    with fast_autocast("cpu"):
        posterior = vae.encode(pictures).latent_dist
        mean = posterior.mean.float()
        noise = torch.randn(mean.shape, generator=generator)
        deviation = mean.detach().std()
        decoded = vae.decode(mean + LATENT_NOISE * deviation * noise).sample
    residual = decoded.float() - pictures
    error = residual.square().mean()
    opponent = torch.einsum("yc,bchw->ybhw", OPPONENT, residual).square().mean((1, 2, 3))
    weighted = (opponent * torch.tensor([1.0, hue, hue])).mean()
    penalty = 0.05 * residual.abs().mean() + KL_WEIGHT * mean.square().mean()
    return weighted + penalty, error.detach()


@torch.no_grad()
def fix_latent_deviation(vae: AutoencoderKL) -> None:
    """Set the encoder's log-variances to those of the noise that the decoder was trained with.

    The VAE's training adds this noise itself and never trains the log-variances. But trainings of
    adapters sample latents with them, so they must match.
    """
    assert vae.quant_conv is not None
    deviation = LATENT_NOISE / vae.config["scaling_factor"]  # scaled latents deviate by one
    half = len(vae.quant_conv.weight) // 2  # means first, then log-variances
    vae.quant_conv.weight[half:] = 0
    assert vae.quant_conv.bias is not None
    torch.nn.init.constant_(vae.quant_conv.bias[half:], 2 * math.log(deviation))


@torch.no_grad()
def scaling_factor(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """The factor that gives latents a deviation of one (Rombach et al. 2022, section G)."""
    batches = [to_tensor(pictures[start : start + 50]) for start in range(0, len(pictures), 50)]
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in batches])
    return round(1 / float(latents.std()), 5)


def load(base: Path) -> AutoencoderKL:
    """The VAE of a base's folder, in float32."""
    return AutoencoderKL.from_pretrained(base, subfolder="vae", torch_dtype=torch.float32)


@torch.no_grad()
def reproduce(vae: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """What the VAE makes of pictures, uint8 [N, 128, 128, 3]."""
    decoded = []
    for start in range(0, len(pictures), 4):  # more at once would not fit into the CPU's cache
        with fast_autocast("cpu"):
            latents = vae.encode(to_tensor(pictures[start : start + 4])).latent_dist.mean
            decoded_batch = vae.decode(latents).sample.float()
        decoded.append(to_pixels(decoded_batch.clamp(-1, 1) / 2 + 0.5))
    return np.concatenate(decoded)


@torch.no_grad()
def measure(vae: AutoencoderKL, pictures: np.ndarray) -> dict[str, float]:
    """Encode and decode pictures; the mean PSNR in dB, and that of the worst tenth.

    pictures: uint8 [N, 128, 128, 3].
    """
    errors = []
    for start in range(0, len(pictures), 50):
        batch = to_tensor(pictures[start : start + 50])
        decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(F.mse_loss(decoded, batch, reduction="none").mean((1, 2, 3)) / 4)
    psnr = -10 * torch.log10(torch.cat(errors))
    return {"psnr": float(psnr.mean()), "psnr_worst_tenth": float(psnr.quantile(0.1))}
