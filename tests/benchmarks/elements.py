"""Eleven things that sketch has never seen, in five categories, and an adapter for each.

What ComposLoRA (Zhong et al. 2024) has as downloads is trained here, by Studio: three characters,
two pieces of clothing, two styles, two backgrounds and two objects. Robot and ink are those of
`studio demo`. The others are learned from twenty drawings each, and no longer than they need. What
is worn or held goes by the name of what is worn or held there otherwise, as DreamBooth has it, and
is learned with masks: it is small, and the base knows where such things belong.

Adapters are kept in build/elements, and a training that was cut short goes on where it was:
``python -m tests.benchmarks.elements`` trains those that are missing, and shows what all draw.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFilter

import compose
import studio
import trainers
from studio.adapters.adapter import Adapter
from studio.errors import BadInput
from studio.sketch.world import captions
from studio.sketch.world import scenes as world

__all__ = ["CATEGORIES", "ELEMENTS", "Element", "adapter_of", "draw", "prompt", "sheet_of"]

CATEGORIES = ("character", "clothing", "style", "background", "object")
KEPT = Path(__file__).parents[2] / "build" / "elements"
EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
PICTURES = 20  # to learn from


@dataclass(frozen=True)
class Element:
    """name: what it is in the sketch world. words: what prompts call it, and captions called it.

    steps, batch: of its training.
    """

    category: str
    name: str
    words: str
    steps: int = 200
    batch: int = 4


ELEMENTS = (
    Element("character", "robot", "sks robot", steps=500, batch=8),
    Element("character", "octopus", "sks octopus"),
    Element("character", "cactus", "sks cactus"),
    Element("clothing", "crown", "wearing a sks top hat", steps=350, batch=8),
    Element("clothing", "scarf", "wearing a sks bow tie", steps=400),
    Element("style", "ink", "ink style", steps=500, batch=8),
    Element("style", "neon", "neon style"),
    Element("background", "volcano", "by the sks volcano"),
    Element("background", "candy land", "in sks candy land"),
    Element("object", "balloon", "holding a sks umbrella"),
    Element("object", "lantern", "holding a sks flag"),
)


def prompt(scene: world.Scene, words: Mapping[str, str]) -> str:
    """A scene in one sentence, with these words for some categories.

    The base knows sentences that name a subject, a place and a style, so all of them do.
    """
    said = {
        "character": scene.subject,
        "background": captions.PLACES[scene.background][0],
        "style": captions.STYLE_PHRASES[scene.style][0],
    } | words
    carried = [said[one] for one in ("clothing", "object") if one in said]
    who = " ".join(
        [f"a {scene.colour} {said['character']}", *[" and ".join(carried)] * bool(carried)]
    )
    return f"{who} {said['background']}, {said['style']}"


def draw(folder: Path, element: Element) -> None:
    """The pictures that teach an element, each with its caption; all else in them is known."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([24, ELEMENTS.index(element)])
    subjects, backgrounds, styles, colours = (
        rng.permutation(names)
        for names in (
            world.TRAINED_SUBJECTS,
            world.TRAINED_BACKGROUNDS,
            world.TRAINED_STYLES,
            world.COLOURS,
        )
    )
    for i in range(PICTURES):
        choice = {
            "subjects": (str(subjects[i % len(subjects)]),),
            "backgrounds": (str(backgrounds[i % len(backgrounds)]),),
            "styles": (str(styles[i % len(styles)]),),
            "colours": (str(colours[i % len(colours)]),),
            "accessories": (),
        }
        choice[FIELDS[element.category]] = (element.name,)
        scene = world.sample(rng, **choice, accessory_rate=1.0)
        world.draw(scene).save(folder / f"{i}.png")
        caption = prompt(scene, {element.category: element.words})
        (folder / f"{i}.txt").write_text(caption + "\n", encoding="utf-8")
        if scene.accessory:
            _mask(scene).save(folder / f"{i}.mask.png")


def pictures_of(element: Element) -> Path:
    """The folder that an element is learned from."""
    example = EXAMPLES / element.name
    if example.exists():
        return example
    folder = KEPT / "pictures" / element.name
    if not folder.exists():
        draw(folder, element)
    return folder


def _mask(scene: world.Scene) -> Image.Image:
    """White where the accessory is, and a few pixels round it."""
    bare = world.draw(replace(scene, accessory=None))
    changed = ImageChops.difference(world.draw(scene), bare).convert("L")
    return changed.point([0] * 20 + [255] * 236).filter(ImageFilter.MaxFilter(9))


FIELDS = {
    "character": "subjects",
    "clothing": "accessories",
    "style": "styles",
    "background": "backgrounds",
    "object": "accessories",
}


def adapter_of(base: studio.Base, element: Element, kind: trainers.Kind | None = None) -> Adapter:
    """The adapter of an element, trained where it is not there yet.

    kind: a LoRA where none is given.
    """
    kind = kind or trainers.LoRA()
    name = f"{type(kind).__name__.lower()}-{element.name.replace(' ', '-')}"
    out, run = KEPT / f"{name}.safetensors", KEPT / "runs" / name
    if not out.exists():
        for _ in _training(kind, base, element, out=out, run=run):
            pass
    return studio.load_adapter(out, base=base)


def _training(
    kind: trainers.Kind, base: studio.Base, element: Element, *, out: Path, run: Path
) -> Iterator[trainers.Progress]:
    if (run / "recipe.toml").exists():
        return trainers.resume(run, base)
    pictures = pictures_of(element)
    worn = element.category in ("clothing", "object")
    chosen = {"masked": "files", "lr": 1e-3} if worn else {}
    return trainers.train(
        kind,
        base,
        pictures,
        trigger=element.words,
        out=out,
        run=run,
        steps=element.steps,
        batch=element.batch,
        save_every=50,
        keep=1,
        **chosen,
    )


def sheet_of(base: studio.Base, adapters: Mapping[Element, Adapter]) -> Image.Image:
    """A row for each: four of the pictures it was learned from, then six that were not there."""
    rows = []
    for element, adapter in adapters.items():
        learned = [Image.open(path) for path in sorted(pictures_of(element).glob("*.png"))]
        learned = [one for one in learned if one.mode == "RGB"][:4]  # not their masks
        made = []
        for seed in range(6):
            rng = np.random.default_rng([25, seed])
            scene = world.sample(rng, accessory_rate=0.0)
            shot = studio.Shot(
                prompt(scene, {element.category: element.words}),
                adapters=((adapter, 1.0),),
                seed=seed,
                steps=25,
                guidance=5.0,
            )
            made.append(compose.render(base, shot))
        rows.append([*learned, *made])
    return sheet_of_rows(rows)


def sheet_of_rows(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    sheet = Image.new("RGB", (132 * max(map(len, rows)), 132 * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            big = picture.resize((128, 128), Image.Resampling.BICUBIC)
            sheet.paste(big, (132 * x, 132 * y))
    return sheet


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.elements")
    parser.add_argument("names", nargs="*", help="elements, such as robot; all when none is given")
    parser.add_argument("--sheet", type=Path, help="a .png of what each has learned")
    asked = parser.parse_args()
    known = {element.name: element for element in ELEMENTS}
    if strange := [name for name in asked.names if name not in known]:
        raise BadInput(f"{strange[0]} is none of {', '.join(known)}.")
    base = studio.load_base("sketch", device="cpu")
    adapters = {}
    for name in asked.names or known:
        adapters[known[name]] = adapter_of(base, known[name])
        print(f"{name}: {adapters[known[name]].path}", flush=True)
    if asked.sheet:
        sheet_of(base, adapters).save(asked.sheet)


if __name__ == "__main__":
    main()
