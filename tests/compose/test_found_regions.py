"""Regions that attention finds, against plain attention, drawn masks and written-out sums."""

from dataclasses import replace
from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from compose import Made, Regions, denoise, render, render_many, schedule
from compose.engine.denoise import denoise_batch
from compose.engine.picture_run import PictureRun, start_run
from compose.engine.regions.attention import watched_layers, watching
from compose.engine.regions.contrast import Contrast, contrastive_loss
from compose.engine.regions.found_masks import part
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.bases.prompts import TextEmbedding
from studio.errors import BadInput
from studio.requests.regions import open_mask, read_region
from studio.requests.resolved_shot import resolve
from studio.requests.shot import Shot
from tests.compose.conftest import bits, noise, same_bits

FOUND = Regions(masks="attention")


@pytest.fixture(scope="module")
def shot(forms: list[Adapter]) -> Shot:
    """Two adapters of different forms, each with its trigger word in the prompt."""
    robot, cat = (
        replace(one, triggers=(word,))
        for one, word in zip(forms[:2], ("robot", "cat"), strict=True)
    )
    pairs = (robot, 0.8), (cat, 0.6)
    prompt = "a photo of a robot and a cat"
    return Shot(prompt, width=128, height=64, steps=4, adapters=pairs, method=FOUND, seed=3)


def latents(base: Base, shot: Shot) -> Tensor:
    return render(base, shot, output="latents")


def found(base: Base, shot: Shot) -> PictureRun:
    """The run of a shot whose regions were found."""
    run = start_run(base, resolve(shot, base))
    for _ in denoise_batch([run]):
        pass
    return run


class Plain:
    """Attention as a formula, which keeps what each place gives to each token."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def __call__(self, attn: Attention, hidden_states: Tensor, **named: Any) -> Tensor:
        text, heads = named["encoder_hidden_states"], attn.heads
        q, k, v = (
            layer(given).unflatten(-1, (heads, -1)).transpose(1, 2)  # pyright: ignore
            for layer, given in (
                (attn.to_q, hidden_states),
                (attn.to_k, text),
                (attn.to_v, text),
            )
        )
        weights = torch.exp(q @ k.mT / q.shape[-1] ** 0.5)
        weights = weights / weights.sum(-1, keepdim=True)
        self.kept.append(weights.mean(1))
        return attn.to_out[0]((weights @ v).transpose(1, 2).flatten(2))  # pyright: ignore


@pytest.mark.parametrize("family", ["sdxl", "sd1", "sd2"])
def test_what_is_watched_is_plain_attention(bases: dict[str, Base], family: str) -> None:
    unet, base = bases[family].unet, bases[family]
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(2, 4, 8, 16, generator=generator)
    with torch.no_grad():
        text = base.encode_text(["a cat", "a red robot"])
        with watching(unet) as watched:
            base.predict(given, 500, text)
        maps = watched.maps(1, ((3,), (1, 2)), (8, 16))
        own, plain = dict(unet.attn_processors), Plain()
        layers = watched_layers(unet)
        for layer in layers:
            layer.set_processor(plain)  # pyright: ignore
        base.predict(given, 500, text)
        unet.set_attn_processor(own)
    assert not any(module._forward_hooks for module in unet.modules())
    side = maps.shape[1:]
    assert side[1] == 2 * side[0] and len(plain.kept) == len(layers) > 0
    expected = torch.zeros(2, *side)
    for one in plain.kept:
        each = torch.stack([one[1, :, 3], (one[1, :, 1] + one[1, :, 2]) / 2])
        expected += (each / each.mean(1, keepdim=True)).view(2, *side) / len(layers)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_the_first_up_block_with_attention_is_watched(bases: dict[str, Base]) -> None:
    def inside(family: str) -> set[str]:
        watched = watched_layers(bases[family].unet)
        names = (n for n, m in bases[family].unet.named_modules() if m in watched)
        return {".".join(name.split(".")[:2]) for name in names}

    assert inside("sdxl") == {"up_blocks.0"} and inside("sd1") == {"up_blocks.1"}


def test_places_of_tokens_hold_in_long_prompts(sdxl: Base) -> None:
    length = sdxl.tokenizers[0].model_max_length
    assert sdxl.token_places("a robot and a red robot", "robot", "a1111") == [2, 6]
    assert sdxl.token_places("a (red robot:1.3) star", "red robot", "a1111") == [2, 3]
    assert sdxl.token_places("a cat BREAK the robot", "the robot", "a1111") == [
        length + 1,
        length + 2,
    ]
    words = "star " * (length - 2) + "robot"
    assert sdxl.token_places(words, "robot", "a1111") == [length + 1]
    assert sdxl.token_places(words, "robot", "cut") == []
    rows = {"text_encoder": torch.zeros(3, 32), "text_encoder_2": torch.zeros(3, 48)}
    with sdxl.use_embeddings({"<thing>": rows}):
        assert sdxl.token_places("a <thing> star", "<thing>", "plain") == [2, 3, 4]
        assert sdxl.token_places("a <thing> star", "star", "plain") == [5]


def test_a_picture_is_parted_by_its_attention() -> None:
    """Blobs of two concepts and a third; and where both attend in one place, its halves."""
    y, x = np.indices((16, 32))
    blobs = np.stack([np.exp(-((y - 8) ** 2 + (x - c) ** 2) / 18) for c in (26, 5, 16)]) + 0.05
    owner = part(blobs)
    assert [owner[8, c] for c in (26, 5, 16)] == [0, 1, 2]
    assert owner[0, 31] == 0 and owner[15, 0] == 1
    wide = np.exp(-((y - 8) ** 2) / 18 - (x - 16) ** 2 / 100) + 0.05
    leaning = np.stack([wide * (1 + 0.002 * (x - 16)), wide])
    owner = part(leaning + 1e-3 * np.random.default_rng(1).random((2, 16, 32)))
    assert (owner[:, 18:] == 0).all() and (owner[:, :14] == 1).all()
    assert (part(np.ones((1, 4, 4))) == 0).all()


def test_found_masks_drawn_by_hand_give_the_same_latents(sdxl: Base, shot: Shot) -> None:
    before = bits(sdxl)
    steps = [(one.step, one.steps) for one in denoise(sdxl, shot) if hasattr(one, "step")]
    assert steps == [(at, 5) for at in range(1, 6)]  # one of four steps more
    run = found(sdxl, shot)
    regions = run.placed().shot.regions
    masks = [np.asarray(open_mask(read_region(one).mask or "")) for one in regions]
    assert masks[0].shape == (8, 16)
    np.testing.assert_array_equal(sum(mask / 255 for mask in masks), np.ones((8, 16)))
    assert [read_region(one).prompt for one in regions] == [
        "a photo of a robot and a",
        "a photo of a  and a cat",
    ]
    drawn = replace(shot, method=Regions(), regions=regions)
    assert torch.equal(latents(sdxl, shot), latents(sdxl, drawn))
    assert run.resolved.shot.method == FOUND and run.resolved.shot.regions == ()
    assert same_bits(sdxl, before)


def test_each_picture_of_a_batch_watches_its_own_prompt(sdxl: Base) -> None:
    regions = "found robot@", "found cat@"
    shots = [
        Shot(f"{words} robot and a cat", "sketch", "a dog", seed, 128, 64, steps=3, regions=regions)
        for seed, words in enumerate(("a", "a photo of the"))
    ]
    runs = [start_run(sdxl, resolve(replace(one, method=FOUND), sdxl)) for one in shots]
    next(denoise_batch(runs))
    scheduler = sdxl.scheduler()
    scheduler.set_timesteps(3)
    time = scheduler.timesteps[0]
    for run, places in zip(runs, ([[2], [5]], [[5], [8]]), strict=True):
        assert run.finding is not None
        given = noise(run.shot, (8, 16)) * scheduler.init_noise_sigma
        with torch.no_grad(), watching(sdxl.unet) as watched:
            text = sdxl.encode_text([run.shot.prompt])
            ids = sdxl.time_ids(original=(64, 128), crop=(0, 0), target=(64, 128))
            sdxl.predict(scheduler.scale_model_input(given, time), time, text, time_ids=ids)
        (seen,) = run.finding.seen
        expected = watched.maps(0, tuple(map(tuple, places)), (8, 16))
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


def test_found_regions_have_their_own_words_and_prompts(sdxl: Base, shot: Shot) -> None:
    """Also in a batch, with a second pass, and without guidance."""
    told = replace(
        shot,
        guidance=1.0,
        second_pass=1.5,
        regions=("found photo@1: a star", "found a cat@2"),
    )
    regions = [read_region(one) for one in found(sdxl, told).placed().shot.regions]
    assert [one.prompt for one in regions] == ["a star", "a  of a robot and a cat"]
    assert [one.adapters for one in regions] == [(1,), (2,)]
    one, two = (replace(shot, seed=seed, width=64) for seed in (1, 2))
    made = [event for event in render_many(sdxl, [one, two]) if isinstance(event, Made)]
    assert len(made) == 2 and made[0].picture.size == (64, 64)


def test_what_is_looked_for_has_to_be_said(sdxl: Base, shot: Shot) -> None:
    unknown = replace(shot.adapters[1][0], triggers=(), name="unknown")  # pyright: ignore
    for changed, said in (
        ({"prompt": "a robot"}, r"does not say the trigger words of sara|diffusekrona, 'cat': add"),
        ({"adapters": (shot.adapters[0], (unknown, 1.0))}, "unknown, which are not known: add"),
        ({"regions": ("found a dog@1",)}, "does not say 'a dog', by which region 1"),
        ({"regions": ("found@",)}, "1 has no adapter whose trigger words"),
        ({"regions": ("found robot@1", "found@1")}, "1 and 2 are both found by 'robot'"),
        ({"prompt": "a (red:1.2) cat", "regions": ("found red cat@",)}, "not say 'red cat'"),
        ({"syntax": "cut", "prompt": "a star " * 40 + "robot cat"}, "where the prompt is cut"),
    ):
        with pytest.raises(BadInput, match=said):
            denoise(sdxl, replace(shot, **changed))


def test_the_schedule_counts_what_finding_takes(shot: Shot) -> None:
    told = schedule(replace(shot, steps=6))
    assert [len(step) for step in told.steps] == [1, 1, *[2] * 6]
    assert told.cost == 14 and told.plain_cost == 8


def test_the_contrastive_loss_is_that_of_its_formula() -> None:
    maps = torch.rand(3, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    rows = [(n, maps[b, n].flatten()) for b in range(3) for n in range(2)]

    def like(one: Tensor, other: Tensor) -> float:
        return exp(float(one @ other / one.norm() / other.norm()) / 0.5)

    losses = []
    for i, (concept, anchor) in enumerate(rows):
        others = sum(like(anchor, row) for n, row in rows if n != concept)
        for j, (n, row) in enumerate(rows):
            if n == concept and i != j:
                losses.append(-log(like(anchor, row) / (like(anchor, row) + others)))
    assert float(contrastive_loss(maps)) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_latents_move_against_the_gradient() -> None:
    """Against differences of the loss, in a share of the latents' own size."""
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(1, 4, 2, 2, generator=generator, dtype=torch.float64)
    mixed = torch.randn(16, 24, generator=generator, dtype=torch.float64)

    def maps(given: Tensor, _: Tensor) -> Tensor:
        return (given.flatten() @ mixed).view(2, 2, 2, 3).sigmoid()

    def loss(given: Tensor) -> float:
        return float(contrastive_loss(maps(2 * given, start)))

    contrast = Contrast(0.1, 10, maps)
    moved = contrast.moved(start, torch.tensor(1), lambda given: 2 * given)
    slopes = torch.zeros_like(start).flatten()
    for at in range(16):
        step = torch.zeros(16, dtype=torch.float64)
        step[at] = 1e-5
        up, down = loss(start + step.view_as(start)), loss(start - step.view_as(start))
        slopes[at] = (up - down) / 2e-5
    expected = start - 0.1 * start.norm() / slopes.norm() * slopes.view_as(start)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-7)
    assert loss(moved) < loss(start)
    assert [step for step in range(10) if contrast.acts(step)] == [0, 2, 4]


@pytest.mark.parametrize("family", ["sdxl", "sd1"])
def test_maps_of_branches_reach_the_latents(
    bases: dict[str, Base], lora_files: dict[str, Any], family: str
) -> None:
    """The maps that contrast sees are those of each mix alone; gradients go through the UNet."""
    base, before = bases[family], bits(bases[family])
    shot = Shot(
        "a robot and a cat",
        steps=5,
        adapters=tuple((file, 0.7) for file in lora_files[family]),
        regions=("found robot@1", "found cat@2"),
        method=Regions(masks="attention", contrast=0.2),
    )
    run = start_run(base, resolve(shot, base))
    assert run.finding is not None and run.finding.contrast is not None
    given = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4)).requires_grad_()
    maps = run.finding.contrast.maps(given, torch.tensor(500))
    assert maps.shape[:2] == (3, 2)
    (gradient,) = torch.autograd.grad(maps[1, 0].square().sum(), given)
    assert gradient.abs().sum() > 0
    merged = run.finding.evaluation(run.finding.calls[0][0], given, torch.tensor(500)).text
    last = TextEmbedding(merged.hidden[1:], None if merged.pooled is None else merged.pooled[1:])
    with torch.no_grad(), watching(base.unet) as watched:
        base.predict(given, 500, last, time_ids=run.time_ids)
    alone = watched.maps(0, run.finding.watched, (8, 8))
    torch.testing.assert_close(maps[0], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(maps[1], alone, rtol=1e-3)
    moved = latents(base, shot)
    plain = replace(shot, method=FOUND)
    assert torch.equal(moved, latents(base, shot))
    assert not torch.allclose(moved, latents(base, plain), rtol=1e-3)
    assert same_bits(base, before)
