"""How captions are read: their length, weights and clip skip, against the base's own encoding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from studio import Base
from studio.bases.prompts import PromptReading
from studio.errors import BadInput
from studio.requests.recipe import Recipe
from studio.requests.training import read_request
from tests.trainers.learning import SHORT, TRIGGER, learned, lora_request
from trainers import LoRA, Started, train
from trainers.engine.run.folder import Run
from trainers.engine.setup import prepare_training

LONG = "a red cat and the blue dog in ink, " * 15  # three pieces with the tiny tokenizer


@pytest.fixture
def captioned(folder: Path) -> Path:
    """One picture of the folder has a long caption with a weight in it."""
    next(folder.glob("*.txt")).write_text(f"{LONG}(star:1.3)")
    return folder


def started(base: Base, folder: Path, run: Path, **options: Any) -> Started:
    training = train(LoRA(rank=2), base, folder, trigger=TRIGGER, run=run, **{**SHORT, **options})
    found = next(event for event in training if isinstance(event, Started))
    training.close()
    return found


def test_a_training_sees_captions_to_their_end(sdxl: Base, captioned: Path, tmp_path: Path) -> None:
    """Trained or cached text encoders give the same loss before anything has been learned."""
    losses = {}
    for syntax in ("cut", "plain", "a1111"):
        for text in (False, True):
            run, given = tmp_path / f"{syntax}-{text}", {"steps": 1, "caption_syntax": syntax}
            _, (losses[syntax, text],) = learned(
                LoRA(rank=2), sdxl, captioned, run, text_encoders=text, batch=3, **given
            )
        assert losses[syntax, True] == pytest.approx(losses[syntax, False], rel=1e-4)
    assert len({round(loss, 6) for (_, text), loss in losses.items() if not text}) == 3


@torch.no_grad()
def test_what_is_cached_is_what_prompts_are_encoded_to(
    sd1: Base, captioned: Path, tmp_path: Path
) -> None:
    recipe = Recipe(caption_syntax="a1111", clip_skip=2)
    training = prepare_training(
        lora_request(captioned), sd1, kind=LoRA(rank=2), recipe=recipe, run=Run(tmp_path / "run"),
        draw=None,
    )  # fmt: skip
    cache, captions = training.new_cache(), training.captions_to_cache()
    assert training.pieces == 3
    for _ in cache.fill(captions):
        pass
    for caption in captions:
        ours = cache.text(caption).hidden
        theirs = sd1.encode_text([caption], reading=PromptReading("a1111", 2), pieces=3).hidden
        assert torch.equal(ours, theirs)
        assert ours.shape[1] == 3 * 77


def test_short_captions_give_the_bytes_they_gave(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    adapters = [
        learned(LoRA(rank=2), sdxl, folder, tmp_path / syntax, steps=2, caption_syntax=syntax)[0]
        for syntax in ("cut", "plain")
    ]
    one, two = (adapter.deltas for adapter in adapters)
    for name, delta in one.items():
        for key, tensor in delta.tensors().items():
            assert torch.equal(tensor, two[name].tensors()[key])


def test_recipes_of_older_runs_are_cut(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    learned(LoRA(rank=2), sdxl, folder, tmp_path / "run", steps=1)
    file = tmp_path / "run" / "recipe.toml"
    assert read_request(file).recipe["caption_syntax"] == "plain"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if "caption_syntax" not in line))
    assert read_request(file).recipe["caption_syntax"] == "cut"
    by_hand = tmp_path / "by_hand.toml"
    by_hand.write_text(f'kind = "lora"\ntrigger = "a"\npictures = "{folder}"\n')
    assert "caption_syntax" not in read_request(by_hand).recipe


def test_what_is_cut_or_not_meant_is_said(sdxl: Base, captioned: Path, tmp_path: Path) -> None:
    said = {
        syntax: " ".join(started(sdxl, captioned, tmp_path / syntax, caption_syntax=syntax).remarks)
        for syntax in ("cut", "plain", "a1111")
    }
    assert "tokens of the longest caption are left out" in said["cut"]
    assert "are words" in said["plain"]
    assert "3 pieces" in said["a1111"]


def test_clip_skip_leaves_later_layers_untrained(sd1: Base, folder: Path, tmp_path: Path) -> None:
    layers = sd1.text_encoders[0].config.num_hidden_layers
    for skip in (1, 2):
        adapter, _ = learned(
            LoRA(rank=2), sd1, folder, tmp_path / str(skip), steps=1, text_encoders=True,
            clip_skip=skip,
        )  # fmt: skip
        last = [name for name in adapter.deltas if f".layers.{layers - 1}." in name]
        assert bool(last) == (skip == 1)
        assert adapter.recipe["training"]["clip_skip"] == skip  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"clip_skip": 50}, "clip_skip is 50"), ({"caption_syntax": "a1111"}, "names an adapter")],
)
def test_what_can_not_be_read_is_refused_before_the_training(
    sd1: Base, folder: Path, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    next(folder.glob("*.txt")).write_text("a cat <lora:ink:1>")
    with pytest.raises(BadInput, match=reason):
        train(LoRA(rank=2), sd1, folder, trigger=TRIGGER, run=tmp_path / "run", **options)
