"""Draw the picture folders in assets/examples: ``python -m studio.sketch.examples``.

Each folder holds what a user would train on: a few pictures of a subject or in a style that the
base has never seen, with a caption beside each. A subject is an instance of a class that the base
knows, as in DreamBooth (Ruiz et al. 2023): a robot in a paint of its own, not any robot.
"""

from pathlib import Path

import numpy as np

from studio.assets import asset
from studio.sketch import captions
from studio.sketch import scenes as world
from studio.sketch.draw import draw

EXAMPLES = asset("examples")
COUNT = 5  # pictures of each
ROBOT = world.Paint("pink", "striped", "teal")


def draw_subject(folder: Path, subject: str, *, trigger: str, paint: world.Paint) -> None:
    """Draw one painted subject, in one artist's design, in changing places."""
    rng = np.random.default_rng([8, world.SUBJECTS.index(subject)])
    for number, place in enumerate(rng.permutation(world.TRAINED_PLACES)[:COUNT], start=1):
        scene = world.sample(
            rng,
            subjects=(subject,),
            places=(str(place),),
            styles=("3d render",),
            paint=paint,
            bare=True,
        )
        _save(folder, f"{subject}-{number}", scene, captions.plain(scene, subject=trigger))


def draw_style(folder: Path, style: str, *, trigger: str) -> None:
    """Draw pictures in one style, of subjects and places that the base knows."""
    rng = np.random.default_rng([9, world.STYLES.index(style)])
    subjects = rng.permutation(world.TRAINED_SUBJECTS)[:COUNT]
    places = rng.permutation(world.TRAINED_PLACES)[:COUNT]
    for number, (subject, place) in enumerate(zip(subjects, places, strict=True), start=1):
        scene = world.sample(
            rng, subjects=(str(subject),), places=(str(place),), styles=(style,), bare=True
        )
        caption = captions.plain(scene, style=trigger)
        _save(folder, f"{style.replace(' ', '-')}-{number}", scene, caption)


def _save(folder: Path, name: str, scene: world.Scene, caption: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw(scene).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")


def main() -> None:
    """Draw the folders that come with Studio; `studio demo` trains on the first two."""
    draw_subject(EXAMPLES / "robot", "robot", trigger="sks robot", paint=ROBOT)
    draw_style(EXAMPLES / "ink", "ink drawing", trigger="ink style")
    draw_subject(EXAMPLES / "octopus", "octopus", trigger="sks octopus", paint=world.Paint())
    draw_style(EXAMPLES / "glass", "stained glass", trigger="glass style")


if __name__ == "__main__":
    main()
