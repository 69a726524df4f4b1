"""The engine: what it lends, keeps and gives back."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import compose.engine.denoise
import compose.engine.evaluate
import compose.engine.weights.adapter_change
import compose.engine.weights.kept_weights
from compose import Done, Merge, Mix, Part, Step, denoise, render
from compose.engine.picture_run import PictureRun
from compose.engine.weights.adapter_change import DenseChanges
from compose.engine.weights.render_cache import _CACHES, RenderCache, cache_of
from studio.adapters.adapter import Adapter
from studio.adapters.delta import Dense, LowRank, attach
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.prompts import TextEmbedding
from studio.errors import BadInput
from studio.requests.resolved_shot import resolve
from studio.requests.shot import Shot
from tests.compose.conftest import Asks, bits, noise, same_bits

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT_LAYER = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="session")
def lora(lora_files: dict[str, tuple[Path, Path]]) -> Adapter:
    return load_adapter(lora_files["sdxl"][0])


@pytest.fixture(scope="session")
def second(lora_files: dict[str, tuple[Path, Path]]) -> Adapter:
    return load_adapter(lora_files["sdxl"][1])


@pytest.fixture(scope="session")
def shot(lora: Adapter) -> Shot:
    return Shot("a robot in ink", steps=3, adapters=((lora, 0.8),))


def latents(base: Base, shot: Shot) -> Tensor:
    return render(base, shot, output="latents")


def test_progress_counts_up_to_done(sdxl: Base, shot: Shot) -> None:
    *steps, done = denoise(sdxl, shot)
    assert all(isinstance(one, Step) for one in steps) and isinstance(done, Done)
    assert [one.step for one in steps if isinstance(one, Step)] == [1, 2, 3]
    assert {one.steps for one in (*steps, done)} == {3}
    assert torch.equal(done.latents, steps[-1].latents)
    assert done.latents.shape == (1, 4, 8, 8)


def test_last_clean_estimate_is_the_outcome(sdxl: Base) -> None:
    # DDIM's last step goes all the way to what the model takes the picture to be, but for the
    # trace of noise of its first timestep.
    *_, last, done = denoise(sdxl, Shot("a cat", steps=4, scheduler="ddim"))
    assert isinstance(last, Step)
    torch.testing.assert_close(last.clean, done.latents, rtol=0.05, atol=0.05)


def test_clean_latents_are_computed_only_for_who_looks(
    sdxl: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Base, "alphas_cumprod", property(forbidden))
    first, *_ = denoise(sdxl, Shot("a cat", steps=2))
    assert isinstance(first, Step)
    with pytest.raises(AssertionError):
        first.preview()


def test_noise_is_the_seeds_own(sdxl: Base) -> None:
    shot = Shot("a cat", seed=11, steps=1, scheduler="ddim", guidance=1.0)
    start, timestep = noise(shot), 1  # of 1000, a single leading step starts at 0 + offset
    with torch.no_grad():
        predicted = sdxl.predict(start, timestep, sdxl.encode_text(["a cat"]))
    signal, last = sdxl.alphas_cumprod[timestep], sdxl.alphas_cumprod[0]
    clean = (start - (1 - signal).sqrt() * predicted) / signal.sqrt()
    expected = last.sqrt() * clean + (1 - last).sqrt() * predicted  # DDIM's step (12), eta 0
    torch.testing.assert_close(latents(sdxl, shot), expected, rtol=0, atol=1e-5)


def test_same_shot_same_bits_whatever_came_before(sdxl: Base, shot: Shot, second: Adapter) -> None:
    first = latents(sdxl, shot)
    assert torch.equal(latents(sdxl, shot), first)
    latents(sdxl, dataclasses.replace(shot, adapters=((second, 1.0),), negative="a dog"))
    assert torch.equal(latents(sdxl, shot), first)


@pytest.mark.parametrize(("guidance", "rows"), [(5.0, 2), (1.0, 1), (0.0, 1)])
def test_guidance_of_one_or_less_leaves_out_a_pass(sdxl: Base, guidance: float, rows: int) -> None:
    seen: list[int] = []
    hook = sdxl.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    try:
        latents(sdxl, Shot("a cat", steps=2, guidance=guidance))
    finally:
        hook.remove()
    assert seen == [rows, rows]


def test_strength_zero_is_no_adapter(sdxl: Base, shot: Shot, lora: Adapter) -> None:
    plain = latents(sdxl, dataclasses.replace(shot, adapters=()))
    assert torch.equal(latents(sdxl, dataclasses.replace(shot, adapters=((lora, 0),))), plain)
    assert not torch.allclose(latents(sdxl, shot), plain, atol=1e-2)


def test_same_adapter_twice_is_the_sum_of_its_strengths(
    sdxl: Base, shot: Shot, lora: Adapter
) -> None:
    twice = dataclasses.replace(shot, adapters=((lora, 0.5), (lora, 0.3)))
    torch.testing.assert_close(latents(sdxl, twice), latents(sdxl, shot), rtol=1e-4, atol=1e-4)


def test_dense_change_of_a_weight_and_a_bias(sdxl: Base, shot: Shot) -> None:
    name = "unet.conv_out"
    layer = cast(nn.Conv2d, sdxl.layers()[name])
    assert layer.bias is not None
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(layer.weight.shape, generator=generator) * 0.1
    bias = torch.randn(layer.bias.shape, generator=generator)
    adapter = Adapter(deltas={name: Dense(weight, bias)}, kind="unknown", family="sdxl")
    ours = latents(sdxl, dataclasses.replace(shot, adapters=((adapter, 0.5),)))
    before = layer.weight.data.clone(), layer.bias.data.clone()
    try:
        with torch.no_grad():
            layer.weight += 0.5 * weight
            layer.bias += 0.5 * bias
        expected = latents(sdxl, dataclasses.replace(shot, adapters=()))
    finally:
        with torch.no_grad():
            layer.weight.copy_(before[0])
            layer.bias.copy_(before[1])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_base_is_itself_between_steps_and_after_an_early_end(sdxl: Base, shot: Shot) -> None:
    before = bits(sdxl)
    places = [weight.data_ptr() for weight in sdxl.unet.parameters()]
    steps = denoise(sdxl, shot)
    next(steps)
    assert same_bits(sdxl, before)
    steps.close()
    assert same_bits(sdxl, before)
    assert [weight.data_ptr() for weight in sdxl.unet.parameters()] == places
    assert not any("forward" in vars(module) for module in sdxl.unet.modules())


def test_base_is_itself_after_an_error(
    sdxl: Base, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bits(sdxl)

    def fail(*given: object, **named: object) -> Tensor:
        assert not same_bits(sdxl, before)  # the weights are folded at this point
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sdxl.unet, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        latents(sdxl, shot)
    assert same_bits(sdxl, before)


def test_gradients_stay_on_for_the_caller(sdxl: Base, shot: Shot) -> None:
    for _ in denoise(sdxl, shot):
        assert torch.is_grad_enabled()


def test_two_shots_taken_in_turns_do_not_mix(sdxl: Base, shot: Shot, second: Adapter) -> None:
    other = dataclasses.replace(shot, adapters=((second, 1.0),), prompt="a dog", seed=1)
    alone = latents(sdxl, shot), latents(sdxl, other)
    turns = list(zip(denoise(sdxl, shot), denoise(sdxl, other), strict=True))
    assert torch.equal(turns[-1][0].latents, alone[0])
    assert torch.equal(turns[-1][1].latents, alone[1])


def test_threads_that_draw_on_one_base_take_turns(sdxl: Base, shot: Shot, second: Adapter) -> None:
    shots = [
        dataclasses.replace(shot, adapters=((adapter, strength),), seed=seed)
        for seed, (adapter, strength) in enumerate([*shot.adapters, (second, 1.0)] * 2)
    ]
    alone = [latents(sdxl, one) for one in shots]
    cache_of(sdxl).texts.clear()  # so that the text encoders are changed in threads too
    with ThreadPoolExecutor(len(shots)) as threads:
        together = threads.map(partial(latents, sdxl), shots)
        assert all(map(torch.equal, together, alone))


def test_weights_and_texts_are_kept_for_the_next_picture(
    sdxl: Base, shot: Shot, second: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents(sdxl, shot)
    kept = dict(cache_of(sdxl).kept.weights)
    assert {name for name, _ in kept} == {n for n in shot_layers(shot) if n.startswith("unet.")}
    with monkeypatch.context() as still:
        still.setattr(compose.engine.weights.kept_weights, "changed_weight", forbidden)
        still.setattr(compose.engine.evaluate, "prepare_layers", forbidden)
        still.setattr(sdxl, "encode_text", forbidden)
        latents(sdxl, dataclasses.replace(shot, seed=1))
    latents(sdxl, dataclasses.replace(shot, adapters=((second, 0.5),)))
    assert len(cache_of(sdxl).kept.weights) == len(kept)  # of the new mix, the old ones are gone
    assert not cache_of(sdxl).kept.weights.keys() & kept.keys()
    latents(sdxl, dataclasses.replace(shot, adapters=()))
    assert not cache_of(sdxl).kept.weights


@pytest.mark.parametrize("other", [{"strength": -0.4}, {"method": Merge("ties")}, {"seed": 7}])
def test_another_strength_or_method_finds_changes_and_texts_there(
    sdxl: Base, forms: list[Adapter], other: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same picture comes of it as of a base that knows nothing yet."""
    changed = dict(other)
    strength = changed.pop("strength", 0.5)
    shot = Shot("a cat", steps=1, adapters=((forms[1], 0.8), (forms[2], 0.5)))
    moved = dataclasses.replace(shot, adapters=((forms[1], 0.8), (forms[2], strength)), **changed)
    monkeypatch.setitem(_CACHES, sdxl, RenderCache())
    expected = latents(sdxl, moved)
    monkeypatch.setitem(_CACHES, sdxl, RenderCache())
    latents(sdxl, shot)
    monkeypatch.setattr(compose.engine.weights.adapter_change, "dense_change", forbidden)
    monkeypatch.setattr(sdxl, "encode_text", forbidden)
    assert torch.equal(latents(sdxl, moved), expected)
    monkeypatch.undo()
    latents(sdxl, dataclasses.replace(shot, adapters=()))
    assert not cache_of(sdxl).dense.nbytes


def test_changes_without_room_are_written_anew(sdxl: Base, forms: list[Adapter]) -> None:
    layers, written = sdxl.layers(), DenseChanges(most=50_000)
    names = list(forms[1].deltas)
    for _ in range(2):
        for name in names:
            change = written.change(forms[1], 0, name, layers)
            weight = layers[name].weight
            assert isinstance(weight, Tensor)
            assert torch.equal(change, forms[1].deltas[name].dense(weight))
    assert 25_000 < written.nbytes <= 50_000
    assert written.change(forms[1], 0, names[0], layers) is written.change(
        forms[1], 0, names[0], layers
    )


def shot_layers(shot: Shot) -> set[str]:
    ((adapter, _),) = shot.adapters
    assert isinstance(adapter, Adapter)
    return set(adapter.deltas)


def forbidden(*given: object, **named: object) -> TextEmbedding:
    raise AssertionError("this was to be there already")


def test_adapter_trained_on_since_is_seen(sdxl: Base) -> None:
    delta = LowRank.start(sdxl.layers()[LAYER], 4, alpha=4.0)
    shot = Shot(
        "a cat",
        steps=2,
        adapters=((Adapter(deltas={LAYER: delta}, kind="lora", family="sdxl"), 1.0),),
    )
    before = latents(sdxl, shot)
    with torch.no_grad():
        delta.up.normal_()
    assert not torch.equal(latents(sdxl, shot), before)


def test_texts_read_while_training_are_not_kept(sdxl: Base) -> None:
    shot = Shot("a cat", steps=1)
    plain = latents(sdxl, shot)
    delta = LowRank.start(sdxl.layers()[TEXT_LAYER], 4, alpha=4.0)
    torch.nn.init.normal_(delta.up)
    with attach(sdxl.layers(), {TEXT_LAYER: delta}):
        attached = latents(sdxl, shot)
    assert not torch.equal(attached, plain)
    assert torch.equal(latents(sdxl, shot), plain)
    merged = dataclasses.replace(
        shot, adapters=((Adapter(deltas={TEXT_LAYER: delta}, kind="lora", family="sdxl"), 1.0),)
    )
    torch.testing.assert_close(latents(sdxl, merged), attached, rtol=1e-4, atol=1e-4)


def test_method_may_split_a_mix_by_layers(
    sdxl: Base, shot: Shot, lora: Adapter, second: Adapter
) -> None:
    """Taking some layers of one adapter and the rest of another, as K-LoRA will."""
    chosen = frozenset(name for name in lora.deltas if "attn1" in name)
    rest = frozenset(second.deltas) - chosen
    mix = Mix((Part(0, 1.0, chosen), Part(1, 1.0, rest)))
    spliced = Adapter(
        deltas={name: (lora if name in chosen else second).deltas[name] for name in chosen | rest},
        kind="lora",
        family="sdxl",
    )
    both = dataclasses.replace(shot, adapters=((lora, 1.0), (second, 1.0)), method=Asks((mix,)))
    expected = latents(sdxl, dataclasses.replace(shot, adapters=((spliced, 1.0),)))
    assert torch.equal(latents(sdxl, both), expected)


def test_method_may_evaluate_several_mixes_a_step(
    sdxl: Base, shot: Shot, lora: Adapter, second: Adapter
) -> None:
    """One step of the mean over adapters, each with its own text, as Composite will."""
    each = (Mix((Part(0, 1.0),)), Mix((Part(1, 1.0),)))
    pairs = ((lora, 1.0), (second, 1.0))
    one = dataclasses.replace(shot, steps=1, scheduler="ddim", adapters=pairs)
    both = latents(sdxl, dataclasses.replace(one, method=Asks(each)))
    alone = [latents(sdxl, dataclasses.replace(one, adapters=(pair,))) for pair in pairs]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-4)


def test_method_may_give_the_text_encoders_their_own_mix(
    sdxl: Base, shot: Shot, lora: Adapter
) -> None:
    only_unet = {n: d for n, d in lora.deltas.items() if n.startswith("unet.")}
    plain_text = dataclasses.replace(shot, method=Asks((Mix((Part(0, 0.8),), text=()),)))
    expected = dataclasses.replace(
        shot, adapters=((Adapter(deltas=only_unet, kind="lora", family="sdxl"), 0.8),)
    )
    assert torch.equal(latents(sdxl, plain_text), latents(sdxl, expected))
    assert not torch.equal(latents(sdxl, plain_text), latents(sdxl, shot))


def test_deep_features_are_reused(sdxl: Base, shot: Shot) -> None:
    """With reuse the middle of the UNet runs once; without, at every step."""
    runs: list[int] = []
    hook = sdxl.unet.mid_block.resnets[0].register_forward_hook(lambda *_: runs.append(1))
    mix = Mix((Part(0, 0.8),))
    try:
        full = latents(sdxl, dataclasses.replace(shot, method=Asks((mix,))))
        assert len(runs) == 3
        runs.clear()
        cached = latents(sdxl, dataclasses.replace(shot, method=Asks((mix,), reused=mix)))
    finally:
        hook.remove()
    assert len(runs) == 1
    assert cached.isfinite().all() and not torch.equal(cached, full)
    assert not any("forward" in vars(module) for module in sdxl.unet.modules())
    assert not sdxl.unet.up_blocks[-1]._forward_pre_hooks


@pytest.mark.parametrize("family", ["sdxl", "sd1"])
def test_fresh_deep_features_are_as_good_as_computed(bases: dict[str, Base], family: str) -> None:
    """At the very same latents and timestep nothing is lost by reusing."""
    base = bases[family]
    run = PictureRun(base, resolve(Shot("a cat"), base), steps=1)
    mix = Mix(())
    run.reused = {mix}
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    eps = run.eps(start, torch.tensor(500), {})
    full = eps(mix)
    again = eps(mix, reuse=mix)
    assert torch.equal(again, full)


def test_impossible_shots_are_refused_before_anything_runs(sdxl: Base, lora: Adapter) -> None:
    for shot, names in (
        (Shot("a", width=100), "width: 100 is not a multiple of 8"),
        (Shot("a", scheduler="eular"), "scheduler must be one of euler, .*; it is 'eular'"),
        (Shot("a", steps=0), "steps must be a whole number from 1 to 1000; it is 0"),
        (Shot("a", method="klora"), "method: 'klora' is not a method"),
        (Shot("a", adapters=((lora, float("nan")),)), "strength from -100 to 100; it is nan"),
        (Shot("a", init_image="/no/such.png"), "no picture at /no/such.png"),
    ):
        with pytest.raises(BadInput, match=names):
            denoise(sdxl, shot)
    with pytest.raises(BadInput, match="output: 'jpeg'"):
        render(sdxl, Shot("a"), output="jpeg")  # type: ignore[call-overload]


def test_adapter_of_another_family_is_refused(bases: dict[str, Base], lora: Adapter) -> None:
    with pytest.raises(BadInput):
        denoise(bases["sd1"], Shot("a", adapters=((lora, 1.0),)))
