"""Trainings: steps a second and memory beside diffusers and peft, and all kinds."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import trainers
from studio.bases.base import Base
from studio.errors import BadInput
from tests.benchmarks.gpu.random_base import move_idle_parts, pipeline_of
from tests.benchmarks.gpu.report import Report, median_of

RANK, RATE, TRIGGER, PICTURES = 16, 1e-4, "a sks robot", 2
WARM = 3  # steps
KINDS: dict[str, trainers.Kind] = {
    "lora": trainers.LoRA(rank=RANK),
    "diffusekrona": trainers.DiffuseKronA(),
    "blora": trainers.BLoRA(anyway=True),
    "sara": trainers.SaRA(budget=20_000_000),  # random weights have no tail to threshold
}


def pictures(folder: Path, side: int) -> Path:
    """Pictures of noise."""
    folder.mkdir()
    for number in range(PICTURES):
        noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png", compress_level=1)
    return folder


def measure_lora(report: Report, base: Base, *, steps: int) -> None:
    """LoRA with and without checkpointing, theirs and ours, and what was estimated.

    Theirs only where the base is not quantized.
    """
    stored = "" if base.quantize == "none" else f", stored in {base.quantize}"
    title = f"{base.name}, LoRA of rank {RANK}, batch 1, {base.size} px, {base.precision}{stored}"
    report.table(
        title, "loop", "checkpointing", "steps a second", "peak (reserved)", "estimated step"
    )
    for checkpointing in (False, True):
        shown = "yes" if checkpointing else "no"
        if not report.has_time:
            report.skip("LoRA")
            return
        kind = trainers.LoRA(rank=RANK)
        options: dict[str, Any] = {"checkpointing": checkpointing}
        said = trainers.estimate(
            kind, base, pictures=PICTURES, runs="no-runs", drawing=False, **options
        )
        taken = _train(report, kind, base, options, steps)
        step = median_of(taken, after=WARM)
        off = f"{said.step:.3g} s, {said.step / step - 1:+.0%}"
        report.row("Studio", shown, f"{1 / step:.2f}", report.peak(), off)
        if stored:
            continue
        if not report.has_time:
            report.skip("diffusers + peft")
            return
        taken = list(_peft_steps(report, base, checkpointing=checkpointing, steps=steps))
        step = median_of(taken, after=WARM)
        report.row("diffusers + peft", shown, f"{1 / step:.2f}", report.peak(), "")


def measure_kinds(
    report: Report, base: Base, precisions: tuple[str, ...], *, steps: int, tiny: bool
) -> None:
    """Every kind with and without checkpointing in these precisions."""
    columns = ("kind", "precision", "checkpointing", "steps a second", "peak (reserved)")
    report.table(f"{base.name}, kinds, {base.size} px, weights in {base.precision}", *columns)
    for precision in precisions:
        for name, kind in KINDS.items():
            if tiny and isinstance(kind, trainers.SaRA):
                kind = trainers.SaRA(budget=3000)
            for checkpointing in (False, True):
                shown = "yes" if checkpointing else "no"
                if not report.has_time:
                    report.skip(f"{name}, {precision}")
                    continue
                options = {"checkpointing": checkpointing, "precision": precision}
                try:
                    taken = _train(report, kind, base, options, steps)
                except (BadInput, torch.OutOfMemoryError) as error:
                    report.row(name, precision, shown, str(error).splitlines()[0], "")
                    continue
                speed = f"{1 / median_of(taken, after=1):.2f}"
                report.row(name, precision, shown, speed, report.peak())


def _train(
    report: Report, kind: trainers.Kind, base: Base, options: Mapping[str, Any], steps: int
) -> list[float]:
    """Seconds of each step; the peak is that of the steps."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        training = trainers.train(
            kind,
            base,
            pictures(Path(folder) / "pictures", base.size),
            trigger=TRIGGER,
            run=Path(folder) / "run",
            steps=steps,
            lr=RATE,
            batch=1,
            save_every=0,
            **options,
        )
        for event in training:
            if isinstance(event, trainers.Step):
                taken.append(event.seconds)
            else:
                report.reset_peak()
            if _is_last(event, steps):
                break
        training.close()
    return taken


def _is_last(event: trainers.Progress, steps: int) -> bool:
    """Whether the last step is made: what comes after is writing files."""
    return isinstance(event, trainers.Step) and event.step == steps


def _peft_steps(report: Report, base: Base, *, checkpointing: bool, steps: int) -> Iterator[float]:
    """diffusers' training script for LoRA with caches: seconds of each step."""
    from peft import LoraConfig

    device, unet = base.device, pipeline_of(base).unet
    move_idle_parts(base, "cpu")
    unet.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    parameters = [one for one in unet.parameters() if one.requires_grad]
    for one in parameters:
        one.data = one.data.float()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()
    optimizer = torch.optim.AdamW(parameters, lr=RATE)
    half = base.dtype != torch.float32
    mixed = torch.autocast(device.type, dtype=base.dtype) if half else nullcontext()
    report.reset_peak()
    try:
        for _ in range(steps):
            report.wait()
            begun = time.perf_counter()
            given = _inputs(base)
            noise = torch.randn_like(given["sample"])
            with mixed:
                predicted = unet(**given).sample
            F.mse_loss(predicted.float(), noise.float()).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            report.wait()
            yield time.perf_counter() - begun
    finally:
        unet.disable_gradient_checkpointing()
        unet.delete_adapters(["default"])
        unet.eval()
        move_idle_parts(base, device)


def _inputs(base: Base) -> dict[str, Any]:
    """A picture's latents and its caption, of batch 1."""
    device, config = base.device, base.unet.config
    side = base.size // base.latent_factor
    given: dict[str, Any] = {
        "sample": torch.randn(1, 4, side, side, device=device, dtype=base.dtype),
        "timestep": torch.randint(0, 1000, (1,), device=device),
        "encoder_hidden_states": torch.randn(
            1, 77, config["cross_attention_dim"], device=device, dtype=base.dtype
        ),
    }
    if base.family == "sdxl":
        width = config["projection_class_embeddings_input_dim"]
        width -= 6 * config["addition_time_embed_dim"]
        given["added_cond_kwargs"] = {
            "text_embeds": torch.randn(1, width, device=device, dtype=base.dtype),
            "time_ids": torch.tensor([[base.size, base.size, 0, 0, base.size, base.size]]).to(
                device
            ),
        }
    return given
