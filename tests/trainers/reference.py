"""The usual training loop of the example scripts, on peft's layers: what ours is compared with.

It shares nothing with ours but the order in which a step draws, which the head of
trainers/engine/data/randomness.py documents, and the order of the pictures.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.training_utils import EMAModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests.trainers.learning import TRIGGER
from trainers import LoRA
from trainers.engine.data.batches import batches

__all__ = ["adamw", "peft_training", "trained"]

CAPTIONS = ["a photo of a sks robot in red", TRIGGER, TRIGGER]


def adamw(unet: nn.Module) -> torch.optim.Optimizer:
    """As the loop has it when nothing is asked for, at the tests' learning rate."""
    return torch.optim.AdamW(trained(unet), lr=1e-3, weight_decay=0.01)


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def peft_training(
    model: Path,
    folder: Path,
    kind: LoRA,
    start: Mapping[str, Any],
    *,
    steps: int,
    batch: int = 2,
    seed: int = 3,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adamw,
    noise_offset: float = 0.0,
    input_perturbation: float = 0.0,
    ema: float = 0.0,
) -> tuple[list[float], dict[str, Tensor]]:
    """The loss of every step and peft's weights, or their average, from the same first weights."""
    pipe: Any = DiffusionPipeline.from_pretrained(model).to(torch.get_default_dtype())
    pipe.unet.requires_grad_(False)
    pipe.unet.add_adapter(
        LoraConfig(
            r=kind.rank,
            lora_alpha=kind.alpha or kind.rank,  # pyright: ignore[reportArgumentType]
            use_dora=kind.dora,
            target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        )
    )
    for name, delta in start.items():
        layer = pipe.unet.get_submodule(name.removeprefix("unet."))
        layer.lora_A["default"].weight.data.copy_(delta.down)
    step_of = optimizer(pipe.unet)
    average = EMAModel(trained(pipe.unet), decay=ema)
    schedule: Any = DDPMScheduler.from_config(pipe.scheduler.config)
    found = []
    for step, numbers in enumerate(islice(batches([0, 0, 0], batch=batch, seed=seed), steps)):
        bits = sha256(f"{seed}/step/{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(bits[:8], "little") // 2)
        latents, noise, seen, at = [], [], [], []
        for number in numbers:
            at.append(int(torch.randint(1000, (), generator=generator)))
            mean, std = _posterior(pipe, folder / f"{number}.png")
            sample = mean + std * torch.randn(4, 8, 8, generator=generator)
            latents.append(sample * pipe.vae.config.scaling_factor)
            drawn = torch.randn(4, 8, 8, generator=generator)
            if noise_offset:
                drawn = drawn + noise_offset * torch.randn(4, 1, 1, generator=generator)
            noise.append(drawn)
            if input_perturbation:
                drawn = drawn + input_perturbation * torch.randn(4, 8, 8, generator=generator)
            seen.append(drawn)
        clean, eps, when = torch.stack(latents), torch.stack(noise), torch.tensor(at)
        noisy = schedule.add_noise(clean, torch.stack(seen), when)
        loss = _loss(pipe, schedule, noisy, clean, eps, when, [CAPTIONS[n] for n in numbers])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained(pipe.unet), 1.0)
        step_of.step()
        step_of.zero_grad()
        average.step(trained(pipe.unet))
        found.append(loss.item())
    if ema:
        average.copy_to(trained(pipe.unet))
    return found, get_peft_model_state_dict(pipe.unet)


def _posterior(pipe: Any, path: Path) -> tuple[Tensor, Tensor]:
    picture = torch.from_numpy(np.array(Image.open(path))).to(pipe.vae.dtype)
    pixels = picture.permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
    return posterior.mean[0], posterior.std[0]


def _loss(
    pipe: Any,
    schedule: Any,
    noisy: Tensor,
    clean: Tensor,
    eps: Tensor,
    when: Tensor,
    captions: list[str],
) -> Tensor:
    added = None
    with torch.no_grad():
        if hasattr(pipe, "text_encoder_2"):
            hidden, _, pooled, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False)
            ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * len(captions))
            added = {"text_embeds": pooled, "time_ids": ids}
        else:
            hidden, _ = pipe.encode_prompt(captions, "cpu", 1, False)
    predicted = pipe.unet(noisy, when, encoder_hidden_states=hidden, added_cond_kwargs=added).sample
    alphas = schedule.alphas_cumprod[when]
    snr = alphas / (1 - alphas)
    target, weight = eps, snr.clamp(max=5.0) / snr
    if schedule.config.prediction_type == "v_prediction":
        target = schedule.get_velocity(clean, eps, when)
        weight = snr.clamp(max=5.0) / (snr + 1)
    error = F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
    return (error * weight).mean()
