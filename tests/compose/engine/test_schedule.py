"""The schedule: what methods evaluation for, told without running a model."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from compose import CMLoRA, Composite, KLoRA, Merge, Switch, render, schedule
from studio.adapters.adapter import Adapter
from studio.adapters.delta import LowRank
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import small

DOWN, MIDDLE, UP = (
    "unet.down_blocks.2.attentions.0.to_q",
    "unet.mid_block.attentions.0.to_q",
    "unet.up_blocks.10.attentions.0.to_q",
)
ONE = small({UP: (4, 6), MIDDLE: (4, 6), "text_encoder.a": (4, 6)}, seed=1)
TWO = small({DOWN: (4, 6), MIDDLE: (4, 6)}, seed=2)
SHOT = Shot("", steps=6, adapters=((ONE, 0.8), (TWO, 1.0)))


def with_method(method: object, **fields: object) -> Shot:
    return dataclasses.replace(SHOT, method=method, **fields)  # type: ignore[arg-type]


def test_merge_is_one_pass_a_step_in_all_layers() -> None:
    found = schedule(with_method(Merge(blocks=("mid_block=0.5", "2:down_blocks=0"))))
    assert found.adapters == ("1 small 1", "2 small 2")
    assert found.layers == (DOWN, MIDDLE, UP)  # from the input to the output; no text encoder's
    assert len(found.steps) == 6 and found.cost == 6
    for (one,) in found.steps:
        assert one.layers == {0: {UP: 0.8, MIDDLE: 0.4}, 1: {MIDDLE: 0.5}}
        assert one.weight == 1 and not one.shallow


def test_switch_shows_whose_turn_it_is() -> None:
    found = schedule(with_method(Switch(2)))
    assert [list(one.layers) for (one,) in found.steps] == [[0], [0], [1], [1], [0], [0]]


def test_composite_is_a_pass_for_each_adapter_that_counts_equally() -> None:
    found = schedule(with_method(Composite()))
    assert found.cost == 12
    for step in found.steps:
        assert [list(one.layers) for one in step] == [[0], [1]]
        assert [one.weight for one in step] == [0.5, 0.5]


def test_samplers_of_second_order_evaluate_every_step_but_the_last_twice() -> None:
    found = schedule(with_method(Composite(), scheduler="heun"))
    assert (len(found.steps), found.cost, found.plain_cost) == (6, 22, 11)


def test_klora_shows_each_layers_choice() -> None:
    found = schedule(with_method(KLoRA(beta=-1.0, alpha=30.0)))  # content below 0, then style
    first, *others = (one.layers for (one,) in found.steps)
    assert first == {0: {UP: 0.8, MIDDLE: 0.8}, 1: {DOWN: 1.0}}
    assert others == [{0: {UP: 0.8}, 1: {DOWN: 1.0, MIDDLE: 1.0}}] * 5


def test_cmlora_counts_reused_features_as_less() -> None:
    found = schedule(with_method(CMLoRA(interval=3)))
    shallow = [[one.shallow for one in step] for step in found.steps]
    assert shallow == [[False, False], [True, True], [True, True], [True, False], *[[True] * 2] * 2]
    assert found.cost == pytest.approx(3 + 9 * 0.35)
    leading = [[round(one.weight, 3) for one in step] for step in found.steps]
    assert leading == [[0.6, 0.4]] * 3 + [[0.4, 0.6]] * 3


def test_base_is_lent_its_layers_and_never_run(
    sdxl: Base, forms: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = small({"unet.no.such": (4, 6)}, seed=3)
    absent.deltas.update(forms[1].deltas)
    shot = Shot("a", steps=3, adapters=((forms[0], 1.0), (absent, 1.0)), method=KLoRA())
    with monkeypatch.context() as still:
        still.setattr(sdxl.unet, "forward", None)
        found = schedule(shot, sdxl)
    assert "unet.no.such" not in found.layers
    assert set(found.layers) == {
        name for one in forms[:2] for name in one.deltas if name.startswith("unet.")
    }
    alone = schedule(dataclasses.replace(shot, adapters=((forms[0], 1.0), (forms[1], 1.0))))
    assert (alone.layers, alone.steps) == (found.layers, found.steps)
    runs: list[int] = []
    hook = sdxl.unet.register_forward_hook(lambda *_: runs.append(1))
    try:
        render(sdxl, shot, output="latents")
    finally:
        hook.remove()
    assert len(runs) == found.cost


def test_dora_needs_a_base(sdxl: Base) -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    dora = LowRank.start(sdxl.layers()[name], 2, alpha=2.0, dora=True)
    torch.nn.init.normal_(dora.up)
    pairs = (
        (Adapter(deltas={name: dora}, kind="lora", family="sdxl"), 1.0),
        (small({name: (64, 64)}, seed=1), 1.0),
    )
    shot = Shot("a", steps=2, adapters=pairs, method=KLoRA())
    with pytest.raises(BadInput, match="DoRA"):
        schedule(shot)
    assert len(schedule(shot, sdxl).steps) == 2
    assert schedule(dataclasses.replace(shot, method=Merge())).cost == 2  # which asks for no change


def test_tags_in_the_prompt_are_adapters_without_a_base_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataclasses.replace(TWO, name="one").save("one.safetensors")
    tagged = dataclasses.replace(SHOT, prompt="a <lora:one:0.8>", adapters=((TWO, 1.0),))
    assert schedule(tagged).adapters == ("1 small 2", "2 one")


def test_impossible_shots_are_refused() -> None:
    with pytest.raises(BadInput, match="is not a method of compose"):
        schedule(with_method(Switch))  # the class, for lack of brackets
    with pytest.raises(BadInput, match="interval must be a whole number of at least 1"):
        schedule(with_method(Switch(0)))
    with pytest.raises(BadInput, match="method: 'switch'"):
        schedule(with_method("switch"))
    with pytest.raises(BadInput, match="steps must be a whole number from 1 to 1000; it is 0"):
        schedule(with_method(Switch(), steps=0))


def test_picture_shows_the_adapter_of_every_step_and_layer() -> None:
    picture = np.asarray(schedule(with_method(Switch(2))).picture())
    colours = {(0x3B, 0x6F, 0xB6): "1", (0xD9, 0x82, 0x2B): "2", (0xD5, 0xD5, 0xD5): "-"}
    height, left = picture.shape[0] - 60, picture.shape[1] - 8 - 720  # without the margins
    rows = [
        "".join(
            colours[tuple(map(int, picture[30 + height * down // 6, left + 60 * right]))]
            for right in range(1, 12, 2)  # the middle of each of six steps
        )
        for down in (1, 3, 5)  # and of three layers
    ]
    assert rows == ["--22--", "112211", "11--11"]  # down, middle, up


def test_picture_shows_passes_side_by_side_and_reused_ones_paler() -> None:
    plain = schedule(with_method(CMLoRA(interval=2, cache=False), steps=2)).picture()
    cached = schedule(with_method(CMLoRA(interval=2), steps=2)).picture()
    assert plain.size == cached.size
    before, after = (np.asarray(one, dtype=int)[60:-60] for one in (plain, cached))
    half = before.shape[1] - 8 - 360
    assert (before[:, :half] == after[:, :half]).all()  # the first step
    changed = (before != after).any(-1)
    assert changed[:, half:].any() and (after >= before).all()


def test_no_adapter_and_no_step_too_many() -> None:
    found = schedule(Shot("", steps=1000))
    assert found.cost == 1000 and found.layers == ()
    assert found.picture().width >= 1000


def test_layers_stand_from_the_input_to_the_output() -> None:
    names = ("conv_in", "down_blocks.0.a", "mid_block.a", "up_blocks.2.a", "up_blocks.10.a")
    expected = [f"unet.{name}" for name in (*names, "conv_out")]
    adapter = small({name: (4, 6) for name in reversed(expected)}, seed=1)
    assert list(schedule(Shot("", adapters=((adapter, 1.0),))).layers) == expected
