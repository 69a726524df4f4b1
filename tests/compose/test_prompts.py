"""Long prompts, weights and adapters' tags in pictures, against diffusers' pipelines."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import compose
from compose import Made, render, render_many
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.adapter_tags import find_adapter, take_adapter_tags
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from tests.compose.conftest import Pipeline, noise

CPU = torch.device("cpu")
PIECES = ("a red cat and the blue dog in ink", "a star on the robot", "a photo of the cat")
LONG = " BREAK ".join(PIECES)
Drawn = Callable[..., Any]


def embedded(pipeline: Pipeline, pieces: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
    """Each piece as the pipeline encodes it alone, side by side, and the first one's pooled."""
    encode = partial(
        pipeline.encode_prompt,
        device=CPU,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    found = [encode(piece) for piece in pieces]
    return torch.cat([one[0] for one in found], dim=1), found[0][2] if len(found[0]) > 2 else None


def latents_of(pipeline: Pipeline, shot: Shot, **given: Any) -> Tensor:
    draw = cast(Drawn, pipeline)
    generator = torch.Generator().manual_seed(shot.seed)
    return draw(
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        latents=noise(shot),
        generator=generator,
        output_type="latent",
        return_dict=False,
        **given,
    )[0]


@pytest.mark.parametrize("negative", ["", "a dog"])
@pytest.mark.parametrize("family", ["sdxl", "sd1", "sd2"])
def test_a_long_prompt_is_drawn_as_diffusers_draws_its_pieces(
    bases: dict[str, Base], pipeline: Callable[[str], Pipeline], family: str, negative: str
) -> None:
    shot = Shot(LONG, negative=negative, seed=2, steps=3)
    theirs = pipeline(family)
    prompt, pooled = embedded(theirs, PIECES)
    given: dict[str, Any] = {"prompt_embeds": prompt}
    if family == "sdxl":
        given["pooled_prompt_embeds"] = pooled
    if negative or family != "sdxl":  # SDXL takes zeros for an empty one, as its pipeline does
        without, pooled_without = embedded(theirs, (negative, "", ""))
        given["negative_prompt_embeds"] = without
        if family == "sdxl":
            given["negative_pooled_prompt_embeds"] = pooled_without
    ours = render(bases[family], shot, output="latents")
    torch.testing.assert_close(ours, latents_of(theirs, shot, **given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sdxl", "sd1"])
def test_old_recipes_are_drawn_as_before(
    bases: dict[str, Base], pipeline: Callable[[str], Pipeline], family: str
) -> None:
    """Brackets are words there, and diffusers too cuts what is longer than the text encoder."""
    written = shot_to_dict(Shot("a (red:1.2) [cat] BREAK " + 20 * "the blue dog ", steps=3, seed=4))
    del written["syntax"], written["clip_skip"]
    shot = compose.shot_from_dict(written)
    ours = render(bases[family], shot, output="latents")
    theirs = latents_of(pipeline(family), shot, prompt=shot.prompt)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    now = render(bases[family], replace(shot, syntax="a1111"), output="latents")
    assert not torch.allclose(ours, now, rtol=1e-3, atol=1e-3)


def test_what_is_written_is_read_back() -> None:
    for shot in (Shot("a (cat)"), Shot("a", syntax="plain", clip_skip=2), Shot("a", syntax="cut")):
        assert compose.shot_from_dict(shot_to_dict(shot)) == shot


def test_prompts_of_all_lengths_are_drawn_together(sdxl: Base) -> None:
    prompts = ("a cat", LONG, "a (robot:1.4)", "a dog BREAK ink")
    shots = [Shot(prompt, seed=number, steps=2) for number, prompt in enumerate(prompts)]
    for event in render_many(sdxl, shots):
        assert isinstance(event, Made)
        alone = torch.tensor(list(render(sdxl, shots[event.number]).tobytes()))
        ours = torch.tensor(list(event.picture.tobytes()))
        assert (alone - ours).abs().max() <= 1


@pytest.mark.parametrize("method", [None, compose.Composite(), compose.Switch()])
def test_a_tag_in_the_prompt_is_an_adapter(
    sdxl: Base,
    lora_files: dict[str, tuple[Path, Path]],
    monkeypatch: pytest.MonkeyPatch,
    method: compose.Method | None,
) -> None:
    one, two = lora_files["sdxl"]
    monkeypatch.chdir(one.parent)
    tagged = Shot(f"a cat <lora:{two.stem}:0.5>", steps=2, adapters=((one, 1.0),), method=method)
    plain = replace(tagged, prompt="a cat", adapters=((one, 1.0), (two, 0.5)))
    ours, theirs = render(sdxl, tagged), render(sdxl, plain)
    assert ours.tobytes() == theirs.tobytes()
    assert ours.info["parameters"] == theirs.info["parameters"]


def test_the_library_is_looked_through_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.requests.adapter_tags.DEFAULT_FOLDER", tmp_path)
    (tmp_path / "adapters").mkdir()
    ink = tmp_path / "adapters" / "ink.safetensors"
    ink.touch()
    assert find_adapter("ink:style", folder=tmp_path) == f"{ink}:style"
    assert find_adapter("styles/ink", folder=tmp_path) == str(ink)
    with pytest.raises(BadInput, match="did you mean ink"):
        find_adapter("inc", folder=tmp_path)


@pytest.mark.parametrize(
    ("prompt", "adapters", "left"),
    [
        ("a cat, <lora:ink:0.8>, red", [("ink", 0.8)], "a cat, red"),
        ("<lora:ink>a cat", [("ink", 1.0)], "a cat"),
        ("a <lyco:ink:-1:-1> cat", [("ink", -1.0)], "a cat"),
        ("a cat <lora:robot:style:0.5>", [("robot:style", 0.5)], "a cat"),
        ("a (cat <lora:a:1><lora:b:2>:1.2)", [("a", 1.0), ("b", 2.0)], "a (cat :1.2)"),
        (r"a \<lora:ink:1>", [], r"a \<lora:ink:1>"),
    ],
)
def test_tags_give_a_name_and_a_strength(
    prompt: str, adapters: list[tuple[str, float]], left: str
) -> None:
    shot = take_adapter_tags(Shot(prompt), lambda name: name)
    assert (list(shot.adapters), shot.prompt) == (adapters, left)
    shot.check()
    plain = Shot(prompt, syntax="plain")
    assert take_adapter_tags(plain, lambda name: name) == plain


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("<lora:ink:1:0.5>", "strength of its own"),
        ("<lora:ink:much>", "can't be read"),
        ("<hypernet:ink:1>", "hypernetwork"),
    ],
)
def test_other_tags_are_refused_by_their_names(tag: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as caught:
        take_adapter_tags(Shot(f"a {tag} cat"), lambda name: name)
    assert tag in str(caught.value)
    with pytest.raises(BadInput, match="only in the prompt"):
        Shot("a cat", negative=tag).check()


def test_too_large_a_clip_skip_is_refused_before_any_step(sdxl: Base) -> None:
    with pytest.raises(BadInput, match="clip_skip is 50"):
        compose.denoise(sdxl, Shot("a cat", clip_skip=50))
