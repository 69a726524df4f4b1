"""Words to avoid: Perp-Neg and DECOR against their formulas, and pictures against loops by hand."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compose import Composite, like, render
from compose.engine.texts.avoid import perp_neg, perpendicular, project_out
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.bases.prompts import TextEmbedding
from studio.errors import BadInput
from studio.requests.picture_file import read_recipe, save_picture
from studio.requests.shot import Shot
from tests.compose.conftest import noise

WORDS = ("a red hat", "ink")


def latents(base: Base, shot: Shot) -> Tensor:
    return render(base, shot, output="latents")


def test_what_is_left_is_perpendicular_in_each_picture() -> None:
    avoided, wanted = torch.randn(2, 3, 4, 5, 6)
    wanted[1] = 0
    left = perpendicular(avoided, wanted)
    products = (left * wanted).flatten(1).sum(1)
    assert products.abs().max() < 1e-4
    assert torch.equal(left[1], avoided[1])  # without a direction nothing is common
    torch.testing.assert_close(left[:1], perpendicular(avoided[:1], wanted[:1]))
    assert perpendicular(2.5 * wanted, wanted).abs().max() < 1e-5


def test_guidance_goes_away_from_what_is_not_the_prompts() -> None:
    without, prompted, one, two = torch.randn(4, 1, 4, 3, 3)
    p = (prompted - without).flatten()
    expected = prompted.flatten()
    for avoided in (one, two):
        n = (avoided - without).flatten()
        expected = expected - 0.7 * (n - (n @ p) / (p @ p) * p)
    found = perp_neg(without, prompted, [one, two], 0.7)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-5, atol=1e-5)
    along = without + 3 * (prompted - without)  # the same words again: nothing is taken away
    torch.testing.assert_close(perp_neg(without, prompted, [along], 1.0), prompted)


def test_decor_takes_out_the_span() -> None:
    prompt, avoided, empty = (
        TextEmbedding(torch.randn(1, 7, 12), torch.randn(1, 9)) for _ in range(3)
    )
    pairs = [(avoided, 3)]
    found = project_out(prompt, pairs, empty, 1.0)
    undesired = avoided.hidden[0, 1:4] - empty.hidden[0].mean(0)
    assert (found.hidden[0] @ undesired.T).abs().max() < 1e-4
    assert found.pooled is not None and avoided.pooled is not None and empty.pooled is not None
    assert (found.pooled[0] @ (avoided.pooled - empty.pooled)[0]).abs() < 1e-4
    torch.testing.assert_close(project_out(found, pairs, empty, 1.0).hidden, found.hidden)
    left = (
        prompt.hidden[0].T
        - undesired.T @ torch.linalg.lstsq(undesired.T, prompt.hidden[0].T).solution
    )
    torch.testing.assert_close(found.hidden[0], left.T, rtol=1e-4, atol=1e-4)
    half = project_out(prompt, pairs, empty, 0.5).hidden
    torch.testing.assert_close(half, (prompt.hidden + found.hidden) / 2)
    assert torch.equal(project_out(prompt, pairs, empty, 0.0).hidden, prompt.hidden)


def by_hand(base: Base, shot: Shot) -> Tensor:
    """Perp-Neg's loop with a call of the UNet for each text."""
    size = (base.size, base.size)
    ids = base.time_ids(original=size, crop=(0, 0), target=size)
    texts = [base.encode_text([one]) for one in (shot.negative, shot.prompt, *shot.avoid)]
    scheduler = base.scheduler(shot.scheduler)
    scheduler.set_timesteps(shot.steps)
    x = noise(shot) * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, step)
        with torch.no_grad():
            without, prompted, *avoided = (
                base.predict(scaled, step, one, time_ids=ids) for one in texts
            )
        wanted = prompted - without
        p = wanted
        for one in avoided:
            n = one - without
            common = (n * wanted).sum() / (wanted * wanted).sum()
            p = p - shot.avoid_strength * (n - common * wanted)
        x = scheduler.step(without + shot.guidance * p, step, x, return_dict=False)[0]
    return x


def test_a_picture_is_that_of_the_loop_by_hand(sdxl: Base, forms: list[Adapter]) -> None:
    shot = Shot(
        "a cat", negative="photo", seed=4, steps=2, guidance=4.0, avoid=WORDS, avoid_strength=0.8
    )
    torch.testing.assert_close(latents(sdxl, shot), by_hand(sdxl, shot), rtol=1e-4, atol=1e-4)
    plain = dataclasses.replace(shot, avoid=())
    without = dataclasses.replace(shot, avoid_strength=0.0)
    torch.testing.assert_close(latents(sdxl, without), latents(sdxl, plain), rtol=1e-4, atol=1e-5)
    same = dataclasses.replace(plain, avoid=("a cat",))  # the prompt itself has nothing else
    torch.testing.assert_close(latents(sdxl, same), latents(sdxl, plain), rtol=1e-3, atol=1e-3)
    # Under any method, and for every adapter's own prediction.
    mixed = dataclasses.replace(shot, adapters=((forms[0], 0.8),) * 2)
    averaged = dataclasses.replace(mixed, adapters=mixed.adapters, method=Composite())
    alone = dataclasses.replace(mixed, adapters=mixed.adapters[:1])
    torch.testing.assert_close(latents(sdxl, averaged), latents(sdxl, alone), rtol=1e-4, atol=1e-4)


def test_decor_draws_the_projected_prompt(sdxl: Base) -> None:
    shot = Shot("a red cat", steps=1, guidance=1.0, avoid=("red",), avoid_by="decor")
    prompt, red, empty = (sdxl.encode_text([text]) for text in ("a red cat", "red", ""))
    tokens = sdxl.count_tokens("red", "a1111")
    with torch.no_grad():
        text = project_out(prompt, [(red, tokens)], empty, 1.0)
        assert (text.hidden - prompt.hidden).abs().max() > 0.01
        scheduler = sdxl.scheduler(None)
        scheduler.set_timesteps(1)
        x = noise(shot) * scheduler.init_noise_sigma
        (step,) = scheduler.timesteps
        size = (sdxl.size, sdxl.size)
        ids = sdxl.time_ids(original=size, crop=(0, 0), target=size)
        predicted = sdxl.predict(scheduler.scale_model_input(x, step), step, text, time_ids=ids)
    expected = scheduler.step(predicted, step, x, return_dict=False)[0]
    torch.testing.assert_close(latents(sdxl, shot), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["perp-neg", "decor"])
def test_the_recipe_keeps_what_is_avoided(sdxl: Base, tmp_path: Path, way: str) -> None:
    shot = Shot("a cat", steps=1, avoid=WORDS, avoid_by=way, avoid_strength=0.5)  # type: ignore[arg-type]
    save_picture(render(sdxl, shot), tmp_path / "one.png")
    again = like(read_recipe(tmp_path / "one.png"), sdxl)
    assert (again.avoid, again.avoid_by, again.avoid_strength) == (WORDS, way, 0.5)
    assert torch.equal(latents(sdxl, again), latents(sdxl, shot))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"avoid": ("hat",), "guidance": 1.0}, "needs guidance above 1, and it is 1: raise it"),
        ({"avoid": (" ",)}, "a text is empty"),
        ({"avoid": ("[a:b:3]",)}, "prompt editing"),
        ({"avoid_by": "decor", "avoid_strength": 1.5}, "at most 1 with decor"),
        ({"avoid_by": "hope"}, "avoid_by must be one of perp-neg, decor"),
    ],
)
def test_what_cannot_be_avoided_is_refused(fields: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Shot("a cat", **fields).check()
