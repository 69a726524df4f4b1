"""How fast is a batch? ``python -m tests.benchmarks.batch``

64 shots over 8 adapters, of other prompts and seeds, made by `compose.render_many` and beside it
the plain way: one call of diffusers' pipeline for each shot, after `load_lora_weights` with its
file. Everything from the files to the pictures counts, text and decoding too.

Then the cost of a picture against the number of distinct adapters among 64 shots, 1 to 64, with
LoRAs of rank 16 on the attention and on every layer. `--plot FILE` draws it. On `sketch`, and on a
random UNet of SDXL's depth with 98 million parameters.

Everything is timed in `--turns`, of which the best counts, so that a machine that slows down slows
all. What was timed is kept in `--save`, and a run that is started again goes on from there.
"""

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

import compose
import studio
from studio.adapters.adapter import Adapter
from studio.adapters.delta import Delta, LowRank
from tests.benchmarks.composition import CLOCKS, GUIDANCE, RANK, STEPS
from tests.benchmarks.wide import SKETCH, wide_sdxl

SHOTS, ADAPTERS = 64, 8
COUNTS = (1, 2, 4, 8, 16, 32, 64)
LAYERS = {"attention": ".attn", "everything": "unet."}
COLOURS = {"attention": "#3b6fb6", "everything": "#d9822b"}
GOAL, FLAT = 3.0, 1.1
Timed = dict[str, float]
Turns = dict[str, list[float]]


def main() -> None:
    """Measure what is not measured yet, then tell it all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", choices=STEPS, default="sketch")
    parser.add_argument("--steps", type=int, help="of a picture; 10 on sketch, 4 on wide")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS, help="distinct adapters")
    parser.add_argument("--layers", choices=LAYERS, nargs="*", default=list(LAYERS))
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--flat", action="store_true", help="only the cost against their number")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of a shared machine")
    parser.add_argument("--save", type=Path, help="a .json of what was timed")
    parser.add_argument("--plot", type=Path, help="a .png")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # peft's and diffusers', on loading adapters
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = SKETCH if asked.base == "sketch" else wide_sdxl(Path(scratch) / "wide")
        times = measure(folder, Path(scratch), asked)
    tell(times, asked)
    if asked.plot:
        draw(times, asked).save(asked.plot)


def measure(folder: Path, scratch: Path, asked: argparse.Namespace) -> Timed:
    """Seconds of a picture in the best turn, by what made it."""
    times: Turns = json.loads(asked.save.read_text()) if asked.save and asked.save.exists() else {}
    base = studio.load_base(folder, device="cpu")
    files = {
        layers: [random_file(base, layers, seed, scratch) for seed in range(max(asked.counts))]
        for layers in asked.layers
    }
    steps, clock = asked.steps or STEPS[asked.base], CLOCKS[asked.clock]
    few = files[asked.layers[0]][:ADAPTERS]
    works: dict[str, Callable[[], None]] = {}
    if not asked.flat:
        works["ours"] = lambda: ours(base, shots_of(few, steps))
        works["plain"] = lambda: plainly(folder, shots_of(few, steps), base.size)
    for layers in asked.layers:
        for count in asked.counts:
            shots = shots_of(files[layers][:count], steps)
            works[f"{layers} {count}"] = lambda shots=shots: ours(base, shots)
    ours(base, shots_of(few[:2], steps)[:16])  # what the first batch of a process takes longer
    for turn in range(asked.turns):
        for name, work in works.items():
            if len(times.setdefault(name, [])) > turn:
                continue
            begun = clock()
            work()
            times[name].append((clock() - begun) / SHOTS)
            if asked.save:
                asked.save.write_text(json.dumps(times, indent=1))
    return {name: min(taken) for name, taken in times.items()}


def shots_of(files: Sequence[Path], steps: int) -> list[studio.Shot]:
    """64 shots that take these adapters in turns."""
    colours = ("red", "blue", "green", "yellow", "purple")
    return [
        studio.Shot(
            f"a {colours[number % len(colours)]} star in a meadow",
            seed=number,
            steps=steps,
            guidance=GUIDANCE,
            adapters=((files[number % len(files)], 1.0),),
        )
        for number in range(SHOTS)
    ]


def random_file(base: studio.Base, layers: str, seed: int, scratch: Path) -> Path:
    """A LoRA on these layers whose changes are a tenth of the weights, about."""
    generator = torch.Generator().manual_seed(seed)
    deltas: dict[str, Delta] = {}
    for name, layer in base.layers().items():
        if name.startswith("unet.") and LAYERS[layers] in name:
            delta = LowRank.start(layer, RANK, alpha=RANK, generator=generator)
            torch.nn.init.normal_(delta.up, std=0.02, generator=generator)
            deltas[name] = delta
    made = Adapter(deltas=deltas, kind="lora", family=base.family, name=f"{layers}-{seed}")
    return made.save(scratch / f"{layers}-{seed}.safetensors")


def ours(base: studio.Base, shots: Sequence[studio.Shot]) -> None:
    """Make them as a batch."""
    for event in compose.render_many(base, shots):
        assert isinstance(event, compose.Made), event.reason


def plainly(folder: Path, shots: Sequence[studio.Shot], size: int) -> None:
    """Make them one by one with diffusers and peft."""
    from diffusers import StableDiffusionXLPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for shot in shots:
        pipeline.load_lora_weights(str(shot.adapters[0][0]))
        pipeline(
            shot.prompt,
            num_inference_steps=shot.steps,
            guidance_scale=shot.guidance,
            width=size,
            height=size,
            generator=torch.Generator().manual_seed(shot.seed),
        )
        pipeline.unload_lora_weights()


def tell(times: Timed, asked: argparse.Namespace) -> None:
    """Print both tables."""
    if not asked.flat:
        faster = f"{times['plain'] / times['ours']:.1f} x as fast (goal {GOAL:g})"
        made = Table("64 shots, 8 adapters", "pictures a second", "", title=asked.base)
        made.add_row("Studio", f"{1 / times['ours']:.2f}", faster)
        made.add_row("one pipeline call a shot", f"{1 / times['plain']:.2f}", "")
        Console().print(made)
    flat = Table("distinct adapters", *(str(count) for count in asked.counts), "goal")
    for layers in asked.layers:
        costs = costs_of(times, layers, asked.counts)
        flat.add_row(f"LoRA on {layers}", *(f"{cost:.2f}" for cost in costs), f"<= {FLAT:g}")
    Console().print(flat)


def costs_of(times: Timed, layers: str, counts: Sequence[int]) -> list[float]:
    """What a picture costs, in pictures of the first count."""
    return [times[f"{layers} {count}"] / times[f"{layers} {counts[0]}"] for count in counts]


def draw(times: Timed, asked: argparse.Namespace) -> Image.Image:
    """A line for each kind of adapter, the goal in grey."""
    width, height, margin = 560, 320, 48
    picture = Image.new("RGB", (width, height), "#ffffff")
    pen = ImageDraw.Draw(picture)
    lines = {layers: costs_of(times, layers, asked.counts) for layers in asked.layers}
    top = max(1.5, *(cost for costs in lines.values() for cost in costs))

    def place(at: int, cost: float) -> tuple[float, float]:
        along = at / max(1, len(asked.counts) - 1)
        high = height - 2 * margin
        return margin + along * (width - 2 * margin), height - margin - cost / top * high

    pen.text((margin, 12), f"cost of a picture, {asked.base}, 64 shots", "#202020")
    pen.text((margin, height - 20), "distinct adapters", "#202020")
    for cost in (0.0, 1.0, FLAT):
        y = place(0, cost)[1]
        pen.line((margin, y, width - margin, y), "#c0c0c0" if cost == FLAT else "#e0e0e0")
        pen.text((6, y - 6), f"{cost:g}", "#606060")
    for at, count in enumerate(asked.counts):
        pen.text((place(at, 0)[0] - 4, height - margin + 6), str(count), "#606060")
    for number, (layers, costs) in enumerate(lines.items()):
        points = [place(at, cost) for at, cost in enumerate(costs)]
        pen.line(points, COLOURS[layers], width=3)
        pen.text((width - 190, 12 + 14 * number), f"LoRA on {layers}", COLOURS[layers])
    return picture


if __name__ == "__main__":
    main()
