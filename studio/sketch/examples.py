"""Draw the picture folders in assets/examples: ``python -m studio.sketch.examples``.

Each folder holds what a user would train on: a few pictures of a subject or in a style that the
base has never seen, with a caption beside each.
"""

from pathlib import Path

import numpy as np

from studio.assets import asset
from studio.sketch.world import captions
from studio.sketch.world import scenes as world

EXAMPLES = asset("examples")


def draw_subject(folder: Path, subject: str, *, trigger: str, count: int = 5) -> None:
    """Draw one subject `count` times, in changing colours, styles and places."""
    rng = np.random.default_rng([8, world.SUBJECTS.index(subject)])
    backgrounds = world.TRAINED_BACKGROUNDS
    colours = rng.permutation(world.COLOURS)
    for i in range(count):
        scene = world.sample(
            rng,
            subjects=(subject,),
            colours=(str(colours[i % len(colours)]),),
            backgrounds=(backgrounds[i % len(backgrounds)],),
            styles=(world.TRAINED_STYLES[i % len(world.TRAINED_STYLES)],),
            accessory_rate=0.0,
        )
        _save(folder, f"{subject}-{i + 1}", scene, captions.plain(scene, subject=trigger))


def draw_style(folder: Path, style: str, *, trigger: str, count: int = 10) -> None:
    """Draw `count` pictures in one style, of subjects and places that the base knows."""
    rng = np.random.default_rng([9, world.STYLES.index(style)])
    subjects = rng.permutation(world.TRAINED_SUBJECTS)
    backgrounds = world.TRAINED_BACKGROUNDS
    for i in range(count):
        scene = world.sample(
            rng,
            subjects=(str(subjects[i]),),
            backgrounds=(backgrounds[i % len(backgrounds)],),
            styles=(style,),
            accessory_rate=0.0,
        )
        caption = captions.plain(scene, style=trigger)
        _save(folder, f"{style.replace(' ', '-')}-{i + 1}", scene, caption)


def _save(folder: Path, name: str, scene: world.Scene, caption: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    world.draw(scene).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")


def main() -> None:
    """Draw the folders that `studio demo` trains on."""
    draw_subject(EXAMPLES / "robot", "robot", trigger="sks robot")
    draw_style(EXAMPLES / "ink", "ink", trigger="ink style")


if __name__ == "__main__":
    main()
