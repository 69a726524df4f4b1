"""Eleven things that sketch has never seen, in five categories, and an adapter for each.

What ComposLoRA (Zhong et al. 2024) has as downloads is trained here, by Studio: four characters,
one piece of clothing, two styles, two places and two objects. A character is an instance of a class
in a paint of its own, as DreamBooth has it, or of a class that is new. What is worn or held goes by
the name of what is worn or held there otherwise, and is learned with masks: it is small, and the
base knows where such things belong.

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
from studio.sketch import captions
from studio.sketch import scenes as world
from studio.sketch.draw import draw as draw_scene

__all__ = ["CATEGORIES", "ELEMENTS", "Element", "adapter_of", "draw", "prompt", "sheet_of"]

CATEGORIES = ("character", "clothing", "style", "place", "object")
KEPT = Path(__file__).parents[2] / "build" / "elements"
PICTURES = 10  # to learn from


@dataclass(frozen=True)
class Element:
    """name: what it is in the sketch world. words: what prompts and captions call it.

    paint: of a character.
    """

    category: str
    name: str
    words: str
    paint: world.Paint | None = None

    @property
    def file(self) -> str:
        """A name for its files."""
        return self.name.replace(" ", "-")


ELEMENTS = (
    Element("character", "robot", "sks robot", world.Paint("pink", "striped", "teal")),
    Element("character", "cat", "sks cat", world.Paint("blue", "dotted", "yellow")),
    Element("character", "car", "sks car", world.Paint("green", "checked", "white")),
    Element("character", "octopus", "sks octopus", world.Paint()),
    Element("clothing", "helmet", "wearing a sks cap"),
    Element("style", "ink drawing", "ink style"),
    Element("style", "stained glass", "glass style"),
    Element("place", "volcano", "in front of a sks volcano"),
    Element("place", "candy land", "in sks candy land"),
    Element("object", "guitar", "holding a sks umbrella"),
    Element("object", "key", "holding a sks star"),
)


def prompt(scene: world.Scene, words: Mapping[str, str]) -> str:
    """A scene in one sentence, with these words for some categories.

    The base knows sentences that name a subject, a place and a style, so all of them do.
    """
    said = {
        "character": scene.subject.name,
        "place": captions.PLACES[scene.place or "meadow"][0],
        "style": captions.STYLES[scene.style][0],
    } | words
    carried = [said[one] for one in ("clothing", "object") if one in said]
    who = " ".join([f"a {said['character']}", *carried])
    return f"{who} {said['place']}, {said['style']}"


def scene_with(rng: np.random.Generator, element: Element) -> world.Scene:
    """A scene that has the element; all else in it is known to the base."""
    name = (element.name,)
    match element.category:
        case "character":
            return world.sample(rng, subjects=name, paint=element.paint, bare=True)
        case "clothing":
            return world.sample(rng, worn=name, wall_rate=0, worn_rate=1, held_rate=0)
        case "object":
            return world.sample(rng, held=name, wall_rate=0, worn_rate=0, held_rate=1)
        case "style":
            return world.sample(rng, styles=name, paint=world.Paint(), bare=True)
    return world.sample(rng, places=name, paint=world.Paint(), bare=True)


def draw(folder: Path, element: Element) -> None:
    """The pictures that teach an element, each with its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([24, ELEMENTS.index(element)])
    for i in range(PICTURES):
        scene = scene_with(rng, element)
        draw_scene(scene).save(folder / f"{i}.png")
        caption = prompt(scene, {element.category: element.words})
        (folder / f"{i}.txt").write_text(caption + "\n", encoding="utf-8")
        if scene.worn or scene.held:
            _mask(scene).save(folder / f"{i}.mask.png")


def pictures_of(element: Element) -> Path:
    """The folder that an element is learned from."""
    folder = KEPT / "pictures" / element.file
    if not folder.exists():
        draw(folder, element)
    return folder


def _mask(scene: world.Scene) -> Image.Image:
    """White where something is worn or held, and a few pixels round it."""
    bare = draw_scene(replace(scene, worn=None, held=None))
    changed = ImageChops.difference(draw_scene(scene), bare).convert("L")
    return changed.point([0] * 20 + [255] * 236).filter(ImageFilter.MaxFilter(13))


def adapter_of(base: studio.Base, element: Element, kind: trainers.Kind | None = None) -> Adapter:
    """The adapter of an element, trained where it is not there yet.

    kind: a LoRA where none is given.
    """
    kind = kind or trainers.LoRA()
    name = f"{type(kind).__name__.lower()}-{element.file}"
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
    chosen = {"masked": "files"} if worn else {}
    return trainers.train(
        kind,
        base,
        pictures,
        trigger=element.words,
        out=out,
        run=run,
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
            scene = world.sample(rng, bare=True)
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


def sheet_of_rows(rows: Sequence[Sequence[Image.Image]], *, width: int = 128) -> Image.Image:
    """Pictures of this width and 128 pixels high, in rows."""
    sheet = Image.new("RGB", ((width + 4) * max(map(len, rows)), 132 * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, ((width + 4) * x, 132 * y))
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
