"""Learned words: read as diffusers reads them, kept in files that it and others read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from studio.adapters.adapter import Adapter
from studio.adapters.compatibility import check_fits
from studio.adapters.delta import LowRank
from studio.adapters.describe import describe
from studio.adapters.formats.convert import to_inversions, to_kohya, to_lycoris
from studio.adapters.load import load_adapter
from studio.adapters.tensor_file import write_tensors
from studio.adapters.token_embeddings import (
    embedding_table,
    initial_embedding,
    learned_rows,
)
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.prompt_pieces import PromptReader
from studio.bases.prompts import PromptReading
from studio.errors import BadInput
from tests.tiny import tokenizer

WIDTHS = {"sdxl": {"text_encoder": 32, "text_encoder_2": 48}, "sd1": {"text_encoder": 32}}
Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


@pytest.fixture(scope="module", params=["sdxl", "sd1"])
def base(request: pytest.FixtureRequest) -> Base:
    return load_base(request.getfixturevalue(f"{request.param}_folder"))


@pytest.fixture
def pipeline(base: Base) -> Pipeline:
    kind = StableDiffusionXLPipeline if base.family == "sdxl" else StableDiffusionPipeline
    return kind.from_pretrained(base.source, local_files_only=True)


def drawn(family: str, token: str = "<robot>", vectors: int = 2) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {
        token: {
            name: torch.randn(vectors, width, generator=generator)
            for name, width in WIDTHS[family].items()
        }
    }


def adapter(base: Base, embeddings: dict[str, dict[str, Tensor]]) -> Adapter:
    """A low-rank change of one layer of the UNet, and the embeddings."""
    name = next(name for name in base.layers() if name.endswith("attn1.to_q"))
    delta = LowRank.start(base.layers()[name], 2, alpha=2)
    torch.nn.init.normal_(delta.up)
    return Adapter(deltas={name: delta}, kind="lora", family=base.family, embeddings=embeddings)


def token_numbers(
    tokenizer: CLIPTokenizer, texts: list[str], words: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of texts that are cut at the tokenizer's length: [B, 77] each."""
    reader = PromptReader(tokenizer, words)
    return reader.stack([piece for text in texts for piece in reader.pieces(text, "cut")])[:2]


def load_inversion(pipeline: Pipeline, file: Path, token: str) -> None:
    """As diffusers' documentation has it for either family."""
    if not hasattr(pipeline, "text_encoder_2"):
        pipeline.load_textual_inversion(str(file))  # the token is the tensor's name
        return
    rows: Any = load_file(file)
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        pipeline.load_textual_inversion(
            rows[key],
            token=token,
            text_encoder=getattr(pipeline, f"text_encoder{number}"),
            tokenizer=getattr(pipeline, f"tokenizer{number}"),
        )


@pytest.mark.parametrize(
    "prompt",
    [
        "a <robot> robot in red",
        "<robot>",
        "a photo of <ROBOT>s, <robot><robot> in ink",
        "a dog",
        "",
        "the <robot> on the blue cat and " * 12,
    ],
)
@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
def test_prompts_are_read_as_diffusers_reads_them(
    base: Base, pipeline: Pipeline, tmp_path: Path, prompt: str
) -> None:
    embeddings = drawn(base.family)
    ((tensors, metadata),) = to_inversions(adapter(base, embeddings)).values()
    write_tensors(tmp_path / "robot.safetensors", tensors, metadata)
    load_inversion(pipeline, tmp_path / "robot.safetensors", "<robot>")
    with torch.no_grad(), base.use_embeddings(embeddings):
        ours = base.encode_text([prompt, "a cat"], reading=PromptReading("cut"))
    # diffusers writes a token's further vectors into the prompt only where its case is the same.
    theirs: Any = [
        pipeline.encode_prompt(
            text.replace("<ROBOT>", "<robot>"),
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        for text in (prompt, "a cat")
    ]
    torch.testing.assert_close(ours.hidden, torch.cat([one[0] for one in theirs]))
    if base.family == "sdxl":
        torch.testing.assert_close(ours.pooled, torch.cat([one[2] for one in theirs]))


def test_texts_without_a_word_have_the_numbers_they_always_had(base: Base) -> None:
    texts = ["a dog", "", "robot < robot > robots; the blue cat! " * 9, "ça va — ﬁn 🤖"]
    for name, reader in zip(WIDTHS["sdxl"], base.tokenizers, strict=False):
        plain = reader(
            texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        for words in ({}, {"<robot>": drawn("sdxl")["<robot>"][name]}):
            numbers, mask = token_numbers(reader, texts, words)
            assert torch.equal(numbers, plain.input_ids)
            assert torch.equal(mask, plain.attention_mask)


def test_a_bare_word_is_found_by_itself_only() -> None:
    reader = tokenizer(pad="!")
    rows = {"sks": torch.zeros(1, 4), "sks cat": torch.zeros(2, 4)}
    numbers, mask = token_numbers(reader, ["a Sks robot", "masks sks_robot", "sks cat"], rows)
    robot = reader("robot", add_special_tokens=False).input_ids
    assert numbers[0, 2:4].tolist() == [-1, *robot]
    assert (numbers[1] < 0).sum() == 1  # as CLIP cuts at the underscore
    assert numbers[2, 1:3].tolist() == [-2, -3]
    assert mask.sum(dim=1).tolist()[2] == 4


def test_nothing_of_the_base_changes(base: Base) -> None:
    tables = [embedding_table(encoder) for encoder in base.text_encoders]
    before = [(table.weight.clone(), table.weight.data_ptr()) for table in tables]
    words = [len(reader) for reader in base.tokenizers]
    with torch.no_grad():
        plain = base.encode_text(["a <robot> robot"]).hidden
        with base.use_embeddings(drawn(base.family)):
            learned = base.encode_text(["a <robot> robot"]).hidden
        after = base.encode_text(["a <robot> robot"]).hidden
    assert torch.equal(plain, after)
    assert not torch.allclose(plain, learned)
    for table, (bits, storage) in zip(tables, before, strict=True):
        assert torch.equal(table.weight, bits)
        assert table.weight.data_ptr() == storage
        assert "forward" not in vars(table)
    assert [len(reader) for reader in base.tokenizers] == words


def test_the_pooled_output_is_read_at_the_end_whatever_the_configuration_says(
    sdxl_folder: Path,
) -> None:
    """SDXL's configurations say 2; transformers then takes the highest number for the end."""
    pooled = []
    for end in (None, 2):
        base = load_base(sdxl_folder)
        encoder = base.text_encoders[1]
        assert isinstance(encoder, CLIPTextModelWithProjection)
        if end:
            encoder.text_model.eos_token_id = end
        with torch.no_grad(), base.use_embeddings(drawn("sdxl")):
            pooled.append(base.encode_text(["a <robot> robot in red"]).pooled)
    assert pooled[0] is not None
    assert torch.equal(*pooled)


def test_gradients_reach_the_learned_rows_alone_as_dense_autograd_has_them() -> None:
    """The rows of an enlarged table, looked up as ever."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(10, 4).requires_grad_(False)
    rows = {"one": torch.randn(1, 4).requires_grad_(), "two": torch.randn(2, 4).requires_grad_()}
    weight = torch.randn(2, 5, 4)
    with learned_rows(table, rows):
        read = table(torch.tensor([[1, -1, -2, -3, 9], [-1, 0, -1, 4, 4]]))
    (read.pow(2) * weight).sum().backward()
    whole = torch.cat([table.weight.detach(), *(r.detach() for r in rows.values())])
    whole.requires_grad_()
    dense = torch.nn.functional.embedding(
        torch.tensor([[1, 10, 11, 12, 9], [10, 0, 10, 4, 4]]), whole
    )
    (dense.pow(2) * weight).sum().backward()
    assert whole.grad is not None
    assert torch.equal(read, dense)
    assert rows["one"].grad is not None
    assert rows["two"].grad is not None
    assert torch.equal(torch.cat([rows["one"].grad, rows["two"].grad]), whole.grad[10:])
    assert table.weight.grad is None


def test_new_words_start_as_others_or_as_wide(base: Base) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = initial_embedding(
        base.tokenizers, base.text_encoders, 4, like="red robot", generator=generator
    )
    drawn = initial_embedding(
        base.tokenizers, base.text_encoders, 400, like=None, generator=generator
    )
    for name, reader, encoder in zip(
        WIDTHS["sdxl"], base.tokenizers, base.text_encoders, strict=False
    ):
        table: Any = encoder.get_input_embeddings().weight
        red, robot = reader("red robot", add_special_tokens=False).input_ids
        assert torch.equal(spread[name], table[[red, red, robot, robot]])
        assert drawn[name].std() == pytest.approx(float(table.std()), rel=0.05)
    with pytest.raises(BadInput, match="holds no word"):
        initial_embedding(base.tokenizers, base.text_encoders, 1, like=" ", generator=generator)


@pytest.fixture
def saved(base: Base, tmp_path: Path) -> Path:
    return adapter(base, drawn(base.family)).save(tmp_path / "robot.safetensors")


def same(one: Adapter, embeddings: dict[str, dict[str, Tensor]]) -> bool:
    return one.embeddings.keys() == embeddings.keys() and all(
        own.keys() == embeddings[token].keys()
        and all(torch.equal(rows, embeddings[token][name]) for name, rows in own.items())
        for token, own in one.embeddings.items()
    )


def test_one_file_holds_both_and_loads_in_diffusers(
    base: Base, saved: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    loaded = load_adapter(saved, base=base)
    assert same(loaded, drawn(base.family))
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    told = describe(saved)
    assert told["tokens"] == {"<robot>": 2}
    pipeline.load_lora_weights(str(saved))
    layers = [name for name, _ in pipeline.unet.named_parameters() if ".lora_A." in name]
    assert len(layers) == 1


@pytest.mark.parametrize("write", [to_kohya, to_lycoris])
def test_bundles_are_written_as_other_tools_have_them(base: Base, tmp_path: Path, write) -> None:
    """And read back; A1111 cuts the name behind the first dot."""
    tensors, metadata = write(adapter(base, drawn(base.family)))
    bundle = {key: rows for key, rows in tensors.items() if not key.startswith("lora_")}
    expected = {"sdxl": {"clip_l", "clip_g"}, "sd1": {"clip_l"}}[base.family]
    assert bundle.keys() == {f"bundle_emb.<robot>.{name}" for name in expected}
    write_tensors(tmp_path / "robot.safetensors", tensors, metadata)
    assert same(load_adapter(tmp_path / "robot.safetensors"), drawn(base.family))
    with pytest.raises(BadInput, match="has a dot in it"):
        write(adapter(base, drawn(base.family, "robot.v2")))


def inversions(tmp_path: Path) -> Iterator[tuple[Path, dict[str, Tensor], str, str]]:
    """Files of other programs: their tensors, the token and the family."""
    rows = torch.randn(3, 768)
    yield tmp_path / "ink.safetensors", {"emb_params": rows}, "ink", "sd1"
    yield tmp_path / "ink.safetensors", {"emp_params": rows}, "ink", "sd1"
    yield tmp_path / "ink.safetensors", {"string_to_param.*": rows}, "ink", "sd1"
    yield tmp_path / "learned_embeds.safetensors", {"<ink>": rows[0]}, "<ink>", "sd1"
    yield tmp_path / "ink.safetensors", {"emb_params": torch.randn(1, 1024)}, "ink", "sd2"
    both = {"clip_l": rows, "clip_g": torch.randn(3, 1280)}
    yield tmp_path / "ink.safetensors", both, "ink", "sdxl"
    yield tmp_path / "x.safetensors", {"bundle_emb.ink.clip_l": rows}, "ink", "sd1"
    yield tmp_path / "x.safetensors", {"bundle_emb.ink.string_to_param.*": rows}, "ink", "sd1"


def test_files_of_other_programs_are_adapters_that_carry_embeddings_only(tmp_path: Path) -> None:
    for path, tensors, token, family in inversions(tmp_path):
        save_file(tensors, path)
        loaded = load_adapter(path)
        assert (list(loaded.embeddings), loaded.family) == ([token], family)
        assert not loaded.deltas
        assert loaded.triggers == (token,)
        encoders = ["text_encoder", "text_encoder_2"][: len(tensors)]
        for name, rows in zip(encoders, tensors.values(), strict=True):
            assert torch.equal(loaded.embeddings[token][name], torch.atleast_2d(rows))


def test_an_exported_embedding_comes_back(base: Base, tmp_path: Path) -> None:
    ((tensors, metadata),) = to_inversions(adapter(base, drawn(base.family))).values()
    write_tensors(tmp_path / "whatever.safetensors", tensors, metadata)
    loaded = load_adapter(tmp_path / "whatever.safetensors", base=base)
    assert same(loaded, drawn(base.family))
    assert check_fits(loaded, base).total == 0


def test_what_is_no_embedding_is_refused(
    sd1_folder: Path, sdxl_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    for tensors, said in (
        ({"bundle_emb.ink.clip_l_out": torch.randn(1, 768)}, "no.* embedding that a text encoder"),
        ({"bundle_emb.ink.clip_l": torch.randn(2, 3, 4)}, "is damaged"),
        ({"emb_params": torch.ones(2, 32, dtype=torch.int64)}, "of whole numbers"),
        ({"model.layer.weight": torch.randn(2, 32)}, "is no adapter that Studio knows"),
        ({"weight": torch.randn(100, 32)}, "is no adapter that Studio knows"),
        (
            {"clip_l": torch.randn(2, 32), "more": torch.randn(2, 32)},
            "is no adapter that Studio knows",
        ),
    ):
        save_file(tensors, file)
        with pytest.raises(BadInput, match=said):
            load_adapter(file)
    (tmp_path / "ink.pt").write_bytes(b"\x80\x02}q\x00X\x0f\x00\x00\x00string_to_param")
    with pytest.raises(BadInput, match="is a pickle"):
        load_adapter(tmp_path / "ink.pt")
    sd1 = load_base(sd1_folder)
    save_file({"emb_params": torch.randn(2, 40)}, file)
    with pytest.raises(BadInput, match="40 wide, and text_encoder of tiny-sd1 reads 32"):
        load_adapter(file, base=sd1)
    save_file({"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 48)}, file)
    with pytest.raises(BadInput, match="was made for Stable Diffusion XL"):
        load_adapter(file, base=sd1)
    with pytest.raises(BadInput, match="has no embedding"):
        to_inversions(adapter(sd1, {}))
