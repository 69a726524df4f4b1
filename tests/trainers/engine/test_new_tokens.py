"""New words learned beside an adapter: against dense autograd in the pipelines of diffusers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import trainers
from studio import Base, load_adapter
from studio.adapters.token_embeddings import embedding_table
from studio.errors import BadInput
from tests.trainers.engine.test_text_encoders import PeftLoop, Pipeline, draws
from tests.trainers.engine.test_text_encoders import base as base
from tests.trainers.engine.test_text_encoders import base64 as base64
from tests.trainers.engine.test_text_encoders import family as family
from tests.trainers.engine.test_text_encoders import pipeline as pipeline
from tests.trainers.learning import (
    NEAR,
    TRIGGER,
    assert_lent,
    assert_resumes,
    learned,
    lora_request,
)
from trainers import BLoRA, DiffuseKronA, Kind, LoRA, SaRA
from trainers.engine.data.randomness import generator_for
from trainers.engine.kind import new_deltas
from trainers.engine.text_encoders import new_embeddings, new_tokens

WORD = {"new_tokens": 2, "token": "sks", "token_lr": 2e-3}


class PivotalLoop(PeftLoop):
    """Rows added to the encoders' tables, whose gradient is taken from the whole table's."""

    def __init__(
        self,
        pipeline: Pipeline,
        folder: Path,
        start: Mapping[str, nn.Module],
        words: Mapping[str, Tensor],
        *,
        base: Base,
    ) -> None:
        super().__init__(pipeline, folder, LoRA(rank=4), start, base=base, only_unet=True)
        self.tables: list[tuple[Tensor, nn.Parameter]] = []
        for name, rows in words.items():
            reader = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
            assert reader.add_tokens(["sks", "sks_1"]) == 2
            encoder = getattr(pipeline, name)
            encoder.resize_token_embeddings(len(reader), mean_resizing=False)
            own = nn.Parameter(rows.detach().clone())
            table = encoder.get_input_embeddings().weight.requires_grad_(True)
            self.tables.append((table, own))
            self.trained.append(own)
            self.optimizer.add_param_group({"params": [own], "lr": WORD["token_lr"]})
        self._write()

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        for table, own in self.tables:
            assert table.grad is not None
            own.grad = table.grad[-2:].clone()
            table.grad = None

    def step(self, *drawn) -> float:
        loss = super().step(*drawn)
        self._write()
        return loss

    def _write(self) -> None:
        with torch.no_grad():
            for table, own in self.tables:
                table[-2:] = own


@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
def test_steps_equal_dense_autograd_in_the_pipeline_of_diffusers(
    base64: Base, pipeline: Pipeline, folder: Path, tmp_path: Path
) -> None:
    """Losses and rows; no other row is touched."""
    base = base64
    pipeline.to(torch.float64)
    options = {"steps": 4, "seed": 3, "lr": 2e-5, "schedule": "constant", **WORD}
    with assert_lent(base):
        adapter, ours = learned(LoRA(rank=4), base, folder, tmp_path / "run", **options)
    start = new_deltas(LoRA(rank=4), base, generator=generator_for(3, "start"))
    recipe = trainers.Recipe(new_tokens=2, token="sks")
    words = new_embeddings(base, ("sks",), recipe, [TRIGGER], generator=generator_for(3, "tokens"))[
        "sks"
    ]
    loop = PivotalLoop(pipeline, folder, start, words, base=base)
    theirs = [loop.step(*drawn) for drawn in draws(seed=3, steps=4, batch=2, dropout=0.0)]
    assert ours == pytest.approx(theirs, abs=1e-5)
    for (name, rows), (_, expected) in zip(words.items(), loop.tables, strict=True):
        assert (expected - rows).abs().max() > 2e-3
        torch.testing.assert_close(adapter.embeddings["sks"][name], expected, **NEAR)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (LoRA(rank=2, dropout=0.3), {"text_encoders": True, "token_init": "robot"}),
        (SaRA(threshold=0.02), {"ema": 0.9}),
        (DiffuseKronA(a1=4), {"text_encoders": True}),
        (BLoRA(rank=2), {}),
    ],
)
def test_every_kind_learns_words_and_resumes_exactly(
    sdxl: Base, folder: Path, tmp_path: Path, kind: Kind, more: dict[str, object]
) -> None:
    options = {"steps": 3, "caption_dropout": 0.3, **WORD, **more}
    with assert_lent(sdxl):
        assert_resumes(kind, sdxl, folder, tmp_path, after=2, **options)
    adapter = load_adapter(tmp_path / "whole" / "adapter.safetensors", base=sdxl)
    assert {name: tuple(rows.shape) for name, rows in adapter.embeddings["sks"].items()} == {
        "text_encoder": (2, 32),
        "text_encoder_2": (2, 48),
    }


def test_nothing_is_drawn_for_words_from_the_generators_of_steps_and_start(
    sd1: Base, folder: Path, tmp_path: Path
) -> None:
    """Words that start as the one they stand for: the first step is that without them."""
    more = {"new_tokens": 1, "token": "sks", "token_init": "sks", "steps": 2}
    adapter, losses = learned(LoRA(rank=2), sd1, folder, tmp_path / "run", **more)
    _, without = learned(LoRA(rank=2), sd1, folder, tmp_path / "without", steps=2)
    assert losses[0] == pytest.approx(without[0], abs=1e-6)
    assert losses[1] != without[1]
    number = sd1.tokenizers[0]("sks", add_special_tokens=False).input_ids
    before = embedding_table(sd1.text_encoders[0]).weight[number]
    assert not torch.equal(adapter.embeddings["sks"]["text_encoder"], before)


def test_an_average_of_words_is_kept_as_that_of_the_changes(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    """After two steps of diffusers' rising decay: 2 / 11 of the first, the rest of the second."""
    options = {"steps": 2, "schedule": "constant", **WORD}
    first, _ = learned(LoRA(rank=2), sdxl, folder, tmp_path / "1", **{**options, "steps": 1})
    second, _ = learned(LoRA(rank=2), sdxl, folder, tmp_path / "2", **options)
    average, _ = learned(LoRA(rank=2), sdxl, folder, tmp_path / "3", ema=0.9, **options)
    for name, rows in average.embeddings["sks"].items():
        one, two = (own.embeddings["sks"][name] for own in (first, second))
        torch.testing.assert_close(rows, one * 2 / 11 + two * 9 / 11)


def test_samples_say_the_new_words(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    read: list[Tensor] = []

    def draw(prompt: str, seed: int) -> Image.Image:
        read.append(sdxl.encode_text([prompt]).hidden)
        return Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8))

    options = {"steps": 2, "batch": 1, "sample_every": 1, "token_lr": 0.1, **WORD}
    list(
        trainers.train(
            LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", draw=draw, **options
        )
    )
    with torch.no_grad():
        plain = sdxl.encode_text([TRIGGER]).hidden
    assert not torch.allclose(read[0], read[1])
    assert not torch.allclose(read[0], plain)


def test_new_words_are_those_in_brackets_or_the_one_that_is_named() -> None:
    recipe = trainers.Recipe(new_tokens=1)
    assert new_tokens("a <s0><s1> robot, <s0>", recipe) == ("<s0>", "<s1>")
    assert new_tokens("a sks robot", trainers.Recipe(new_tokens=1, token="sks")) == ("sks",)
    assert new_tokens("a <sks> robot", trainers.Recipe()) == ()


def test_what_cannot_be_is_refused(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    def start(trigger: str = TRIGGER, **options: object) -> None:
        given = {"trigger": trigger, "run": tmp_path / "run", **options}
        trainers.train(LoRA(rank=2), sdxl, folder, **given)

    for options, said in (
        ({"new_tokens": 1}, "has none in angle brackets"),
        ({"new_tokens": 1, "token": "cat"}, "has no such word"),
        ({"token_init": "robot"}, "token_init needs new_tokens"),
        ({"new_tokens": -1}, "new_tokens must be a whole number of at least 0"),
        ({"new_tokens": 1, "token": " "}, "token must be a text that is not empty"),
        ({"new_tokens": 39, "token": "sks"}, "at most 38"),
        ({"new_tokens": 1, "token": "sks", "optimizer": "prodigy", "token_lr": 0.1}, "token_lr is"),
    ):
        with pytest.raises(BadInput, match=said):
            start(**options)
    for number in range(3):
        (folder / f"{number}.txt").write_text("a robot")
    with pytest.raises(BadInput, match="no caption has the word '<sks>'"):
        start("a <sks> robot", new_tokens=1)
    with pytest.raises(BadInput, match="has none in angle brackets"):
        trainers.check(lora_request(folder, new_tokens=1))
    assert not (tmp_path / "run").exists()
