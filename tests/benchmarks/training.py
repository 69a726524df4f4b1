"""How fast is a training, in how much memory? ``python -m tests.benchmarks.training``

The same LoRA, optimiser, batch and pictures, three times: with Studio; with a plain diffusers and
peft loop that encodes pictures and captions at every step, as the usual example scripts do; and
with that loop given its own caches. Each runs in a fresh process, in turns, on the same machine;
the best of the turns counts. Timed is everything from the pictures' folder to the last step,
encoding included; loading the model is not. The pictures are JPEGs as a camera or a phone gives
them, of 1024 pixels a side; `--side 64` is the least that encoding at every step can cost.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

ROWS = {
    "studio": "Studio",
    "plain": "diffusers + peft, encoding at every step",
    "cached": "diffusers + peft, with its own caches",
}
TRIGGER = "a sks robot"
RANK, RATE = 16, 1e-3
# The layers that learn, as peft names them. Studio's own names for the two are the keys.
LAYERS = {
    "attention": ["to_k", "to_q", "to_v", "to_out.0"],
    "all": r".*\.(to_[qkv]|to_out\.0|proj|proj_in|proj_out|net\.2|conv\d?|conv_shortcut)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="a diffusers folder; sketch, or a tiny one")
    parser.add_argument("--pictures", type=Path, help="a folder; five drawings if not given")
    parser.add_argument("--side", type=int, default=1024, help="of the drawings, in pixels")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--targets", choices=LAYERS, default="attention", help="layers that learn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.row:
        print(json.dumps(measure(wanted.row, wanted.base, wanted.pictures, wanted)))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = wanted.base or _base(Path(folder))
        pictures = wanted.pictures or _pictures(Path(folder) / "pictures", wanted.side)
        found = [
            _in_fresh_process(row, base, pictures, wanted)
            for _ in range(wanted.turns)
            for row in ROWS
        ]
    best = {
        row: {
            "pictures_per_second": max(f["speed"] for f in found if f["row"] == row),
            "peak_mb": min(f["peak_mb"] for f in found if f["row"] == row),
            "last_loss": next(f["loss"] for f in found if f["row"] == row),
        }
        for row in ROWS
    }
    print(json.dumps(best, indent=1) if wanted.json else "", end="")
    if not wanted.json:
        shown = wanted.pictures or f"of {wanted.side} pixels"
        title = f"{base.name}, pictures {shown}, batch {wanted.batch}, {wanted.steps} steps"
        title = f"{title}, {wanted.targets} layers" if wanted.targets == "all" else title
        Console().print(_table(best, title))


def _table(best: dict[str, dict[str, float]], title: str) -> Table:
    table = Table("loop", "pictures a second", "Studio is", "peak memory", title=title)
    ours = best["studio"]["pictures_per_second"]
    for row, name in ROWS.items():
        speed = best[row]["pictures_per_second"]
        times = "" if row == "studio" else f"{ours / speed:.2f} x as fast"
        table.add_row(name, f"{speed:.2f}", times, f"{best[row]['peak_mb']:.0f} MB")
    return table


def _base(folder: Path) -> Path:
    """The sketch base where it is built, or a tiny random model."""
    sketch = Path(__file__).parents[2] / "assets" / "sketch"
    if (sketch / "model_index.json").exists():
        return sketch
    from tests.tiny import tiny_sdxl

    return tiny_sdxl(folder / "tiny-sdxl")


def _pictures(folder: Path, side: int) -> Path:
    """Five captioned drawings of side x side pixels."""
    from studio.sketch import scenes as world
    from studio.sketch.draw import draw

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        draw(world.sample(rng)).resize((side, side)).save(folder / f"{number}.jpg", quality=92)
        (folder / f"{number}.txt").write_text(f"{TRIGGER}, number {number}")
    return folder


def _in_fresh_process(
    row: str, base: Path, pictures: Path, wanted: argparse.Namespace
) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.training", "--row", row]
    command += ["--base", str(base), "--pictures", str(pictures)]
    command += ["--steps", str(wanted.steps), "--batch", str(wanted.batch)]
    command += ["--targets", wanted.targets]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(row: str, base: Path, pictures: Path, wanted: argparse.Namespace) -> dict:
    """One row, in this process. peak_mb: of the whole process, imports and model included."""
    loop = _studio if row == "studio" else partial(_plain, cached=row == "cached")
    losses = loop(base, pictures, wanted.targets, steps=wanted.steps, batch=wanted.batch)
    next(losses)  # the model is loaded
    began = time.perf_counter()
    loss = list(losses)[-1]
    speed = wanted.steps * wanted.batch / (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"row": row, "speed": speed, "peak_mb": peak, "loss": loss}


def _studio(base: Path, pictures: Path, targets: str, *, steps: int, batch: int) -> Iterator[float]:
    import studio
    import trainers

    loaded = studio.load_base(str(base), device="cpu")
    yield 0.0
    with tempfile.TemporaryDirectory() as folder:
        for progress in trainers.train(
            trainers.LoRA(rank=RANK, targets=targets),
            loaded,
            pictures,
            trigger=TRIGGER,
            run=Path(folder) / "run",
            steps=steps,
            batch=batch,
            lr=RATE,
            min_snr=5.0,
            clip=1.0,
            save_every=0,
        ):
            if isinstance(progress, trainers.Step):
                yield progress.loss


def _plain(
    base: Path, pictures: Path, targets: str, *, steps: int, batch: int, cached: bool
) -> Iterator[float]:
    """diffusers' train_text_to_image_lora_sdxl.py, without what is not the work itself."""
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, StableDiffusionXLPipeline
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import compute_snr
    from peft import LoraConfig

    pipe = StableDiffusionXLPipeline.from_pretrained(base)
    unet, vae = pipe.unet, pipe.vae
    scaling = vae.config.scaling_factor
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    yield 0.0
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    for part in (unet, vae, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS[targets]))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-2)
    schedule = get_scheduler("constant", optimizer=optimizer)
    size = unet.config.sample_size * pipe.vae_scale_factor
    examples = _Examples(pictures, size)

    def read_text(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            hidden, _, pooled, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False)
        return hidden, pooled

    def posterior(pixels: torch.Tensor):
        with torch.no_grad():
            return vae.encode(pixels).latent_dist

    kept = []
    if cached:
        for pixels, caption in (examples[n] for n in range(len(examples))):
            given, text = posterior(pixels[None]), read_text([caption])
            kept.append((given.mean[0], given.std[0], text[0][0], text[1][0]))
        pipe.vae = pipe.text_encoder = pipe.text_encoder_2 = vae = None

    order = torch.utils.data.RandomSampler(examples, replacement=False, num_samples=steps * batch)
    loader = torch.utils.data.DataLoader(
        kept if cached else examples, batch_size=batch, sampler=order, num_workers=0
    )
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    unet.train()
    for rows in loader:
        if cached:
            mean, std, hidden, pooled = rows
            latents = mean + std * torch.randn_like(mean)
        else:
            pixels, captions = rows
            latents = posterior(pixels).sample()
            hidden, pooled = read_text(list(captions))
        latents = latents * scaling
        noise = torch.randn_like(latents)
        at = torch.randint(0, noise_scheduler.config.num_train_timesteps, (batch,))
        ids = torch.tensor([[size, size, 0, 0, size, size]]).repeat(batch, 1)
        predicted = unet(
            noise_scheduler.add_noise(latents, noise, at),
            at,
            hidden,
            added_cond_kwargs={"time_ids": ids, "text_embeds": pooled},
            return_dict=False,
        )[0]
        snr = compute_snr(noise_scheduler, at)
        weight = torch.stack([snr, 5.0 * torch.ones_like(at)], dim=1).min(dim=1)[0] / snr
        error = F.mse_loss(predicted.float(), noise.float(), reduction="none")
        loss = (error.mean(dim=list(range(1, len(error.shape)))) * weight).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.detach().item()


class _Examples:
    """Pictures and captions, read from the disk each time they are asked for."""

    def __init__(self, folder: Path, size: int) -> None:
        found = (path for path in folder.iterdir() if path.suffix in {".jpg", ".png"})
        self.paths, self.size = sorted(found), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int):
        import torch

        path = self.paths[number]
        with Image.open(path) as opened:
            picture = opened.convert("RGB").resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1)
        return pixels / 127.5 - 1, path.with_suffix(".txt").read_text()


if __name__ == "__main__":
    main()
