"""Which shots share a batch."""

from compose import Composite, KLoRA, group_shots
from compose.engine.batch.groups import mix_key
from studio.requests.shot import Shot

SIZES = {"64x64": 4, "128x64": 2}


def shot(prompt: str = "a", *, mix: str = "", **fields: object) -> Shot:
    pairs = tuple((name, 1.0) for name in mix.split())
    fields = {"width": 64, "height": 64} | fields
    return Shot(prompt, adapters=pairs, **fields)  # type: ignore[arg-type]


def groups(shots: list[Shot], sizes: dict[str, int] = SIZES) -> list[tuple[int, ...]]:
    return [group.numbers for group in group_shots(shots, sizes)]


def test_a_batch_has_one_size_scheduler_and_number_of_steps() -> None:
    shots = [
        shot(),
        shot(steps=9),
        shot(scheduler="ddim"),
        shot(scheduler="ddim", spacing="trailing"),
        shot(width=128),
        shot(init_image="start.png"),
        shot(init_image="other.png", denoise=0.61),  # of 25 steps that is 15 as well
        shot(init_image="other.png", denoise=0.9),
        shot("b", seed=3, guidance=1.0, negative="c"),
    ]
    assert groups(shots) == [(0, 8), (1,), (2,), (3,), (4,), (5, 6), (7,)]


def test_shots_of_one_mix_come_first_and_the_rest_share() -> None:
    mixes = ["x", "y", "x", "z", "x", "y", "x", "x", "y"]
    assert groups([shot(mix=mix) for mix in mixes]) == [(0, 2, 4, 6), (7, 1, 5, 8), (3,)]


def test_strength_and_method_make_another_mix() -> None:
    shots = [
        shot(mix="x y"),
        shot(mix="y x"),
        shot(mix="x y", method=Composite()),
        shot(mix="x y", method=KLoRA()),
        shot(mix="x y", method=KLoRA(alpha=2.0)),
        Shot("a", width=64, height=64, adapters=(("x", 0.5), ("y", 1.0))),
    ]
    assert len({mix_key(one) for one in shots}) == 6
    assert groups(shots, {"64x64": 6}) == [(0, 1, 2, 3, 4, 5)]
    assert groups([*shots, shot(mix="x y")], {"64x64": 2})[0] == (0, 6)


def test_every_shot_has_one_place() -> None:
    shots = [
        shot(mix="xyz"[n % 3], steps=5 + n % 2, width=64 * (1 + n % 5 // 4)) for n in range(41)
    ]
    found = [number for numbers in groups(shots) for number in numbers]
    assert sorted(found) == list(range(41))
    assert all(len(numbers) <= 4 for numbers in groups(shots))


def test_options_in_lists_are_those_in_tuples() -> None:
    listed = KLoRA(content=[2], style=[1])  # pyright: ignore[reportArgumentType]
    shots = [Shot("a", method=listed), Shot("b", method=KLoRA(content=(2,), style=(1,)))]
    assert len({mix_key(one) for one in shots}) == 1
