"""An adapter's learned words are there in its own mixes and in no other, as diffusers has them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compose import CMLoRA, Composite, KLoRA, Merge, Switch, render, schedule
from compose.engine.denoise import denoise
from studio.adapters.adapter import Adapter
from studio.adapters.formats.convert import to_inversions
from studio.adapters.load import load_adapter
from studio.adapters.tensor_file import write_tensors
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import ByHand, Pipeline, bits, noise, same_bits

WIDTHS = {"sdxl": {"text_encoder": 32, "text_encoder_2": 48}, "sd1": {"text_encoder": 32}}


def rows(family: str, seed: int, vectors: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(vectors, width, generator=generator)
        for name, width in WIDTHS[family].items()
    }


def speaking(file: Path, family: str, token: str, seed: int) -> Adapter:
    """A LoRA of diffusers' making with a learned word beside it."""
    return replace(load_adapter(file), embeddings={token: rows(family, seed)}, family=family)


@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
@pytest.mark.parametrize("family", ["sdxl", "sd1"])
def test_a_picture_is_that_of_diffusers_with_both_files(
    bases: dict[str, Base],
    pipeline: Callable[[str], Pipeline],
    lora_files: dict[str, tuple[Path, Path]],
    family: str,
    tmp_path: Path,
) -> None:
    """The one file in `load_lora_weights`, and the word exported in `load_textual_inversion`."""
    adapter = speaking(lora_files[family][0], family, "<robot>", seed=1)
    file = adapter.save(tmp_path / "robot.safetensors")
    ((tensors, metadata),) = to_inversions(adapter).values()
    write_tensors(tmp_path / "alone.safetensors", tensors, metadata)
    shot = Shot("a <robot> robot in ink", seed=9, steps=2, guidance=6.0, adapters=((file, 1.0),))
    made = pipeline(family)
    made.load_lora_weights(str(file))
    if family == "sdxl":
        alone = load_file(tmp_path / "alone.safetensors")
        for key, end in (("clip_l", ""), ("clip_g", "_2")):
            reader, encoder = getattr(made, f"tokenizer{end}"), getattr(made, f"text_encoder{end}")
            made.load_textual_inversion(
                alone[key], token="<robot>", tokenizer=reader, text_encoder=encoder
            )
    else:
        made.load_textual_inversion(str(tmp_path / "alone.safetensors"))
    theirs = made(
        shot.prompt,
        num_inference_steps=2,
        guidance_scale=6.0,
        width=64,
        height=64,
        latents=noise(shot),
        output_type="latent",
        return_dict=False,
    )[0]
    ours = render(bases[family], shot, output="latents")
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    unsaid = replace(adapter, embeddings={})
    without = render(bases[family], replace(shot, adapters=((unsaid, 1.0),)), output="latents")
    assert (ours - without).abs().max() > 1e-2


def test_the_base_comes_back_and_its_texts_with_it(
    sdxl: Base, lora_files: dict[str, tuple[Path, Path]]
) -> None:
    plain = Shot("a <robot> robot", seed=2, steps=1)
    before, own = bits(sdxl), render(sdxl, plain, output="latents")
    adapter = speaking(lora_files["sdxl"][0], "sdxl", "<robot>", seed=1)
    learned = render(sdxl, replace(plain, adapters=((adapter, 1.0),)), output="latents")
    assert not torch.allclose(own, learned)
    assert torch.equal(render(sdxl, plain, output="latents"), own)
    stopped = denoise(sdxl, replace(plain, adapters=((adapter, 1.0),)))
    next(stopped)
    stopped.close()
    assert sdxl.learned_words == {}
    assert same_bits(sdxl, before)


def test_words_are_there_or_not_whatever_the_strength(sdxl: Base) -> None:
    only = Adapter(
        deltas={}, kind="unknown", family="sdxl", embeddings={"<robot>": rows("sdxl", 1)}
    )
    shot = Shot("a <robot> robot", seed=2, steps=1)
    made = {
        strength: render(sdxl, replace(shot, adapters=((only, strength),)), output="latents")
        for strength in (0.0, 0.3, 1.0)
    }
    assert torch.equal(made[0.3], made[1.0])
    assert torch.equal(made[0.0], render(sdxl, shot, output="latents"))
    assert not torch.allclose(made[0.0], made[1.0])


def test_what_is_trained_on_is_seen_anew(sdxl: Base) -> None:
    own = rows("sdxl", 1)
    only = Adapter(deltas={}, kind="unknown", family="sdxl", embeddings={"<robot>": own})
    shot = Shot("a <robot> robot", seed=2, steps=1, adapters=((only, 1.0),))
    first = render(sdxl, shot, output="latents")
    own["text_encoder"].add_(1.0)
    assert not torch.allclose(render(sdxl, shot, output="latents"), first)


def test_each_pass_of_composite_says_its_own_words(
    sdxl: Base, lora_files: dict[str, tuple[Path, Path]]
) -> None:
    """The mean of two predictions, each with its own weights, text encoders and words."""
    one, two = (
        speaking(file, "sdxl", token, seed)
        for file, token, seed in zip(lora_files["sdxl"], ("<cat>", "<ink>"), (1, 2), strict=True)
    )
    shot = Shot("a <cat> cat in <ink> style", negative="photo", seed=3, steps=1, guidance=4.0)
    hand = ByHand(sdxl, shot)

    def at_step(step: int) -> Tensor:
        passes = []
        for adapter in (one, two):
            with sdxl.use_embeddings(adapter.embeddings):
                passes.append(hand.eps([(adapter, 0.8, None)]))
        return torch.stack(passes).mean(dim=0)

    expected = hand.run(at_step)
    mixed = replace(shot, method=Composite(), adapters=((one, 0.8), (two, 0.8)))
    ours = render(sdxl, mixed, output="latents")
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [Merge(), Switch(), Composite(), KLoRA(), CMLoRA()])
def test_an_adapter_of_words_alone_takes_no_turn_and_speaks_in_all(
    sdxl: Base, lora_files: dict[str, tuple[Path, Path]], method: object
) -> None:
    """The picture is that of the other two, the base reading the word for all of them."""
    one, two = map(load_adapter, lora_files["sdxl"])
    only = Adapter(
        deltas={}, kind="unknown", family="sdxl", embeddings={"<robot>": rows("sdxl", 1)}
    )
    both = Shot(
        "a <robot> robot", seed=2, steps=2, method=method, adapters=((one, 0.7), (two, 0.7))
    )
    three = replace(both, adapters=((only, 1.0), *both.adapters))
    assert schedule(three).steps == schedule(both).steps
    ours = render(sdxl, three, output="latents")
    with sdxl.use_embeddings(only.embeddings):
        expected = render(sdxl, both, output="latents")
    assert torch.equal(ours, expected)
    assert not torch.allclose(ours, render(sdxl, both, output="latents"))


def test_one_token_of_two_meanings_is_refused_before_anything_is_done(sdxl: Base) -> None:
    one, two = (
        Adapter(
            deltas={},
            kind="unknown",
            family="sdxl",
            embeddings={token: rows("sdxl", seed)},
            name=token,
        )
        for token, seed in (("<robot>", 1), ("<ROBOT>", 2))
    )
    same = Adapter(
        deltas={}, kind="unknown", family="sdxl", embeddings={"<robot>": rows("sdxl", 1)}
    )
    shot = Shot("a <robot> robot", steps=1)
    with pytest.raises(BadInput, match="<robot> and <ROBOT> both have an embedding"):
        denoise(sdxl, replace(shot, adapters=((one, 1.0), (two, 1.0))))
    twice = render(sdxl, replace(shot, adapters=((one, 1.0), (same, 1.0))), output="latents")
    once = render(sdxl, replace(shot, adapters=((one, 1.0),)), output="latents")
    assert torch.equal(twice, once)
