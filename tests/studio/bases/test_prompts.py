"""Prompts of any length, weights, breaks and clip skip, against transformers and diffusers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.prompts import PromptReading
from studio.errors import BadInput

A1111 = PromptReading("a1111")
LONG = "a red cat and the blue dog in ink, " * 15  # 135 tokens with the tiny tokenizer
Encoded = tuple[Tensor, Tensor | None]


@pytest.fixture(scope="module", params=["sd1", "sdxl", "sketch-sd1"])
def base(request: pytest.FixtureRequest) -> Base:
    if request.param.startswith("sketch"):
        return load_base(request.param)
    return load_base(request.getfixturevalue(f"{request.param}_folder"))


def encoded_plainly(base: Base, ids: Sequence[Sequence[int]]) -> Encoded:
    """Pieces of token ids, encoded one by one by transformers and put side by side."""
    hidden, pooled = [], None
    for tokenizer, encoder in zip(base.tokenizers, base.text_encoders, strict=True):
        found: list[Any] = []
        for piece in ids:
            ids_of_piece: dict[str, Any] = {
                "input_ids": [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id]
            }
            text = tokenizer.pad(
                ids_of_piece,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            )
            found.append(encoder(text.input_ids, output_hidden_states=True))
        if base.family == "sdxl":
            hidden.append(torch.cat([one.hidden_states[-2] for one in found], dim=1))
            pooled = found[0].get("text_embeds", pooled)
        else:
            hidden.append(torch.cat([one.last_hidden_state for one in found], dim=1))
    return torch.cat(hidden, dim=-1), pooled


def ids_of(base: Base, text: str) -> list[int]:
    return base.tokenizers[0](text, add_special_tokens=False).input_ids


def same(ours: Any, theirs: Encoded) -> None:
    torch.testing.assert_close(ours.hidden, theirs[0])
    torch.testing.assert_close(ours.pooled, theirs[1])


@torch.no_grad()
def test_a_long_prompt_is_the_encodings_of_its_pieces_side_by_side(base: Base) -> None:
    ids, room = ids_of(base, LONG), base.tokenizers[0].model_max_length - 2
    pieces = [ids[at : at + room] for at in range(0, len(ids), room)]
    assert len(pieces) > 1
    for reading in (A1111, PromptReading("plain")):
        same(base.encode_text([LONG], reading=reading), encoded_plainly(base, pieces))
    same(base.encode_text([LONG], reading=PromptReading("cut")), encoded_plainly(base, pieces[:1]))
    assert base.cut_tokens(["a cat", LONG]) == len(ids) - room
    assert base.cut_tokens(["a cat"]) == 0


@torch.no_grad()
def test_break_begins_another_piece(base: Base) -> None:
    parts = [ids_of(base, "a red cat"), ids_of(base, "in ink")]
    ours = base.encode_text(["a red cat BREAK in ink"], reading=A1111)
    same(ours, encoded_plainly(base, parts))
    same(base.encode_text(["a red cat BREAK"], reading=A1111), encoded_plainly(base, parts[:1]))


@torch.no_grad()
def test_prompts_of_one_call_are_padded_by_empty_pieces(base: Base) -> None:
    texts = ["a cat", "a red cat BREAK in ink"]
    ours = base.encode_text(texts, reading=A1111)
    plain, pooled = encoded_plainly(base, [ids_of(base, "a cat"), []])
    torch.testing.assert_close(ours.hidden[:1], plain)
    if pooled is not None:
        torch.testing.assert_close(ours.pooled[:1], pooled)  # pyright: ignore
    alone = base.encode_text(texts[:1], reading=A1111, pieces=base.count_pieces(texts, "a1111"))
    torch.testing.assert_close(alone.hidden, plain)


@torch.no_grad()
def test_a_weight_multiplies_the_embeddings_of_its_tokens(base: Base) -> None:
    weighed = base.encode_text([r"a (red cat:1.5) \(and\) [the] dog"], reading=A1111)
    words = [("a", 1), ("red cat", 1.5), ("(and)", 1), ("the", 1 / 1.1), ("dog", 1)]
    ids = [number for text, _ in words for number in ids_of(base, text)]
    weights = [weight for text, weight in words for _ in ids_of(base, text)]
    plain, pooled = encoded_plainly(base, [ids])
    factors = torch.ones(plain.shape[1])
    factors[1 : len(weights) + 1] = torch.tensor(weights)
    same(weighed, (plain * factors[:, None], pooled))


@torch.no_grad()
def test_a_long_prompt_keeps_the_weights_of_later_pieces(base: Base) -> None:
    weighed = base.encode_text([f"a cat BREAK (({LONG}))"], reading=A1111).hidden
    plain = base.encode_text([f"a cat BREAK {LONG}"], reading=A1111).hidden
    length = base.tokenizers[0].model_max_length
    assert torch.equal(weighed[:, :length], plain[:, :length])
    inside = slice(length + 1, 2 * length - 1)
    torch.testing.assert_close(weighed[:, inside], plain[:, inside] * 1.21)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_clip_skip_takes_the_layer_that_diffusers_takes(
    name: str, request: pytest.FixtureRequest
) -> None:
    base = load_base(request.getfixturevalue(f"{name}_folder"))
    kind, own = {"sd1": (StableDiffusionPipeline, 1), "sdxl": (StableDiffusionXLPipeline, 2)}[name]
    pipeline = kind.from_pretrained(base.source, local_files_only=True)
    # diffusers looks for the layer norm where transformers had it before its version 5.
    object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    for skip in range(own, base.text_encoders[0].config.num_hidden_layers + 1):
        theirs = pipeline.encode_prompt(
            "a red cat",
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=skip - own,  # diffusers counts from the layer that the base was trained with
        )
        ours = base.encode_text(["a red cat"], reading=PromptReading(clip_skip=skip))
        torch.testing.assert_close(ours.hidden, theirs[0])
        assert torch.equal(ours.hidden, base.encode_text(["a red cat"]).hidden) == (skip == own)
        if name == "sdxl":
            torch.testing.assert_close(ours.pooled, theirs[2])


def test_more_layers_than_there_are_can_not_be_skipped(base: Base) -> None:
    with pytest.raises(BadInput, match="clip_skip is 99"):
        base.encode_text(["a cat"], reading=PromptReading(clip_skip=99))


@torch.no_grad()
def test_the_vectors_of_a_learned_word_stay_in_one_piece(base: Base) -> None:
    room = base.tokenizers[0].model_max_length - 2
    widths = [encoder.config.hidden_size for encoder in base.text_encoders]
    names = ("text_encoder", "text_encoder_2")
    rows = {name: torch.randn(4, width) for name, width in zip(names, widths, strict=False)}
    full = "cat " * (room - 2)
    with base.use_embeddings({"<robot>": rows}):
        ours = base.encode_text([f"{full}<robot>"]).hidden
        apart = base.encode_text([f"{full}BREAK <robot>"], reading=A1111).hidden
    torch.testing.assert_close(ours, apart)
    long = {name: torch.randn(room + 1, row.shape[1]) for name, row in rows.items()}
    with base.use_embeddings({"<robot>": long}), pytest.raises(BadInput, match="vectors long"):
        base.encode_text(["a <robot>"])
