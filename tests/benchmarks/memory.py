"""What does one training step need? ``python -m tests.benchmarks.memory``

One step (forward, backward, AdamW) of each kind on the real Stable Diffusion 1.5 UNet's shape with
random weights, batch 1, 512 x 512, in float32, each in a process of its own. Peak memory is the
process's; beside it stands what the frozen weights alone take, and the peak that
`trainers.estimate` says of such a training beforehand, but for the VAE and the text encoders, which
have no part in this.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

import studio
import trainers
from studio.adapters.delta import attach
from studio.bases.real_config import real_config

# SaRA's authors give 50 million entries for a threshold of 2e-3; random weights have no such tail.
ROWS = {
    "lora": trainers.LoRA(),
    "diffusekrona": trainers.DiffuseKronA(),
    "blora": trainers.BLoRA(anyway=True),
    "sara": trainers.SaRA(budget=50_000_000),
    "every weight": None,
}


def main() -> None:
    """Print the table of all rows, or of those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("rows", nargs="*", default=[row for row in ROWS if ROWS[row]])
    parser.add_argument("--config", default="sd15", choices=["sd15", "sd21", "sdxl"])
    parser.add_argument("--side", type=int, default=512, help="of the picture in pixels")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        print(json.dumps(measure(asked.rows[0], asked)))
        return
    found = [_in_fresh_process(row, asked) for row in asked.rows]
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    how = ", checkpointing" if asked.checkpointing else ""
    title = f"{asked.config}, one step, {asked.side} x {asked.side}, {found[0]['device']}{how}"
    columns = ("kind", "trained", "weights", "peak", "beyond the weights", "estimated", "step")
    table = Table(*columns, title=title)
    for one in found:
        sizes = (one["weights"], one["peak"], one["peak"] - one["weights"])
        shown = (f"{size / 1e9:.2f} GB" for size in sizes)
        said = one["estimated"]
        off = f"{said / 1e9:.2f} GB ({said / one['peak'] - 1:+.0%})" if said else ""
        table.add_row(one["row"], f"{one['trained']:,}", *shown, off, f"{one['seconds']:.1f} s")
    Console().print(table)


def _in_fresh_process(row: str, asked: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.memory", row, "--alone"]
    command += ["--config", asked.config, "--side", str(asked.side)]
    command += ["--checkpointing"] if asked.checkpointing else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(row: str, asked: argparse.Namespace) -> dict:
    """One row, in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = _random(real_config(asked.config), device)
    if asked.checkpointing:
        base.unet.enable_gradient_checkpointing()
    base.unet.train()
    deltas = _deltas(ROWS[row], base, device)
    trained = [p for delta in deltas.values() for p in delta.parameters()]
    if not trained:
        trained = list(base.unet.requires_grad_().parameters())
    weights = _peak(device)
    began = time.perf_counter()
    with attach(base.layers(), deltas):
        _predict(base, asked.side).square().mean().backward()
    torch.optim.AdamW(trained, lr=1e-4).step()
    took, peak = time.perf_counter() - began, _peak(device)
    return {
        "row": row,
        "device": device.type,
        "trained": sum(p.numel() for p in trained),
        "weights": weights,
        "peak": peak,
        "seconds": took,
        "estimated": _estimated(ROWS[row], base, asked),
    }


def _estimated(kind: trainers.Kind | None, base: studio.Base, asked: argparse.Namespace) -> int:
    """The peak as `trainers.estimate` says it beforehand, less what is not there."""
    if kind is None:
        return 0
    said = trainers.estimate(
        kind,
        base,
        drawing=False,
        recipe=trainers.Recipe(size=asked.side, checkpointing=asked.checkpointing),
    )
    absent = (weight for part in (base.vae, *base.text_encoders) for weight in part.parameters())
    return said.bytes - sum(weight.numel() * weight.itemsize for weight in absent)


def _random(base: studio.Base, device: torch.device) -> studio.Base:
    """The configuration's UNet with small random weights, frozen."""
    base.unet.to_empty(device=device).requires_grad_(False)
    base.device = device
    torch.manual_seed(0)
    for weight in base.unet.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return base


def _deltas(kind: trainers.Kind | None, base: studio.Base, device: torch.device) -> dict:
    from trainers.engine.kind import new_deltas

    if kind is None:
        return {}
    generator = torch.Generator().manual_seed(0)
    deltas = new_deltas(kind.for_base(base), base, generator=generator)
    for delta in deltas.values():
        delta.to(device)
    return deltas


def _predict(base: studio.Base, side: int) -> torch.Tensor:
    """The UNet's output for one picture's latents and a caption of 77 tokens."""
    config, device = base.unet.config, base.device
    added = None
    if base.family == "sdxl":
        added = {
            "text_embeds": torch.randn(1, 1280, device=device),
            "time_ids": torch.tensor([[side, side, 0, 0, side, side]], device=device),
        }
    return base.unet(
        torch.randn(1, 4, side // 8, side // 8, device=device),
        torch.tensor([500], device=device),
        torch.randn(1, 77, config["cross_attention_dim"], device=device),
        added_cond_kwargs=added,
    ).sample


def _peak(device: torch.device) -> int:
    """Bytes, of the whole process on a CPU, of what PyTorch has taken on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
