"""The adapter's file: the same bytes each time, and believed only if sound."""

import base64
import hashlib
import json
import pickle
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load as safetensors_load
from safetensors.torch import load_file

from studio.adapters.adapter import Adapter
from studio.adapters.compatibility import check_fits
from studio.adapters.delta import Delta, Dense, Kron, LowRank, Sparse
from studio.adapters.describe import describe
from studio.adapters.load import load_adapter
from studio.adapters.safetensors_header import read_header
from studio.adapters.tensor_file import NAMES, read_tensors, write_tensors
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.errors import BadInput

BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
CONV = "unet.mid_block.resnets.0.conv1"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> Base:
    return load_base(sdxl_folder)


def every_form() -> dict[str, Delta]:
    """Deltas of every form that fit the tiny SDXL."""
    pair = torch.randn(16, 2), torch.randn(2, 32)
    return {
        TEXT: LowRank(torch.randn(4, 32), torch.randn(32, 4), 3.0, rank_stabilised=True),
        CONV: LowRank(
            torch.randn(4, 64, 3, 3), torch.randn(64, 4, 1, 1), 1.5, magnitude=torch.rand(64)
        ),
        f"{BLOCK}.attn1.to_q": LowRank(torch.randn(2, 64), torch.randn(64, 2), 2.0),
        f"{BLOCK}.attn1.to_k": Kron(torch.randn(4, 2), torch.randn(16, 32), scale=0.3),
        f"{BLOCK}.attn1.to_v": Kron(torch.randn(4, 2), pair, magnitude=torch.rand(64)),
        f"{BLOCK}.attn1.to_out.0": Kron(torch.randn(4, 2), torch.randn(16, 32), rows_swapped=True),
        f"{BLOCK}.attn2.to_q": Sparse(torch.arange(9).int(), torch.arange(9.0), (64, 64)),
        f"{BLOCK}.attn2.to_out.0": Dense(torch.randn(64, 64), torch.randn(64)),
    }


def adapter_of(deltas: Mapping[str, Delta]) -> Adapter:
    return Adapter(
        deltas=dict(deltas),
        kind="lora",
        family="sdxl",
        base="sketch",
        fingerprint="abc",
        triggers=("a sks robot", "in ink style"),
        recipe={"steps": 400, "lr": 1e-4, "prompts": ["a", "ü"], "nested": {"b": None, "a": True}},
        preview=Image.linear_gradient("L").resize((400, 300)),
        name="robot",
    )


# Save and load.


def test_save_load_save_gives_the_same_bytes(tmp_path: Path) -> None:
    first = adapter_of(every_form()).save(tmp_path / "new folder" / "first.safetensors")
    second = load_adapter(first).save(tmp_path / "second.safetensors")
    assert first.read_bytes() == second.read_bytes()


def test_all_that_was_saved_is_loaded(tmp_path: Path) -> None:
    saved = adapter_of(every_form())
    loaded = load_adapter(saved.save(tmp_path / "a.safetensors"))
    for word in ("kind", "family", "base", "fingerprint", "triggers", "recipe", "name"):
        assert getattr(loaded, word) == getattr(saved, word)
    assert loaded.preview is not None and loaded.preview.size == (256, 192)
    assert loaded.path == tmp_path / "a.safetensors" and len(loaded.sha256) == 64
    assert loaded.deltas.keys() == saved.deltas.keys()
    weight = torch.randn(64, 64)
    for layer, delta in saved.deltas.items():
        own = weight if delta.shape == (64, 64) else torch.randn(delta.shape)
        assert type(loaded.deltas[layer]) is type(delta)
        assert torch.allclose(loaded.deltas[layer].dense(own), delta.dense(own), atol=1e-6)


def test_the_bytes_depend_on_nothing_but_the_adapter(tmp_path: Path) -> None:
    """The library's writer orders metadata by a hash that changes from process to process."""
    delta = LowRank(torch.arange(8.0).view(2, 4), torch.arange(6.0).view(3, 2), 1.0)
    adapter = Adapter(deltas={CONV: delta}, kind="lora", family="sdxl", triggers=("sks",))
    data = adapter.save(tmp_path / "a.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
    assert list(header)[1:] == [f"{CONV}.lora_A.weight", f"{CONV}.lora_B.weight"]
    assert length % 8 == 0


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    saved = adapter_of(every_form())
    path = saved.save(tmp_path / "a.safetensors")
    tensors = load_file(path)
    low = saved.deltas[f"{BLOCK}.attn1.to_q"]
    assert isinstance(low, LowRank)
    assert torch.equal(tensors[f"{BLOCK}.attn1.to_q.lora_A.weight"], low.down)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata["modelspec.trigger_phrase"] == "a sks robot, in ink style"
    assert metadata["modelspec.title"] == "robot"
    assert metadata["modelspec.thumbnail"].startswith("data:image/png;base64,")
    config = json.loads(metadata["lora_adapter_metadata"])
    assert config["text_encoder.lora_alpha"] == 3 and config["text_encoder.use_rslora"] is True
    assert config["unet.use_rslora"] is False and config["unet.use_dora"] is True


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_is_kept_and_indices_stay_whole(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = adapter_of(every_form())
    halved = saved.to(dtype=dtype)
    loaded = load_adapter(halved.save(tmp_path / "a.safetensors"))
    for layer, delta in loaded.deltas.items():
        # A scale that is multiplied into half-precision factors makes them float32.
        expected = {torch.float32, dtype} if isinstance(delta, Kron) else {dtype}
        expected = {torch.float16} if isinstance(delta, Sparse) else expected
        assert {p.dtype for p in delta.parameters()} <= expected, layer
    sparse = loaded.deltas[f"{BLOCK}.attn2.to_q"]
    assert isinstance(sparse, Sparse) and sparse.index.dtype == torch.int32
    assert all(p.dtype == torch.float32 for d in saved.deltas.values() for p in d.parameters())


@pytest.mark.parametrize("dtype", NAMES)
def test_tensors_are_those_that_the_library_reads_wherever_they_lie(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """After a header of any length, so at places that are no multiple of their width."""
    own = torch.tensor([[1, 0, 3], [4, 5, 6]], dtype=torch.uint8).to(dtype)
    data = own.view(torch.uint8).numpy().tobytes()
    header: dict[str, object] = {
        "byte": entry("U8", (1,), (0, 1)),
        "own": entry(NAMES[dtype], (2, 3), (1, 1 + len(data))),
        "none": entry("F32", (0, 4), (1 + len(data),) * 2),
    }
    for filling in range(8):
        header["__metadata__"] = {"a": "x" * filling}
        path = file_of(tmp_path / "x.safetensors", header, b"7" + data)
        found, sha256 = read_tensors(path, read_header(path))
        theirs = safetensors_load(path.read_bytes())
        assert found.keys() == theirs.keys() == {"byte", "own", "none"}
        for key, tensor in found.items():
            assert (tensor.dtype, tensor.shape) == (theirs[key].dtype, theirs[key].shape)
            assert torch.equal(tensor.view(torch.uint8), theirs[key].view(torch.uint8))
        assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        found["own"].zero_()  # is a tensor of its own right
        assert found["byte"].item() == ord("7")


@pytest.mark.parametrize("damage", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.float8_e5m2])
def test_a_number_that_is_none_is_found_among_large_ones(
    tmp_path: Path, dtype: torch.dtype, damage: float
) -> None:
    large = torch.full((4, 3), torch.finfo(dtype).max, dtype=torch.float64).to(dtype)
    hurt = torch.tensor([1.0, damage]).to(dtype)
    path, key = tmp_path / "x.safetensors", f"{CONV}.diff"
    write_tensors(path, {key: large}, {})
    assert len(load_adapter(path).deltas) == 1  # its sum is not finite, and it is
    write_tensors(path, {key: large, f"{TEXT}.diff": hurt[:, None]}, {})
    with pytest.raises(BadInput, match=f"{TEXT}.diff contains NaN or Inf"):
        load_adapter(path)


def test_a_file_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path / "x.safetensors", {"a": entry()}, EIGHT)
    before = read_header(path)
    for header, data in (
        ({"b": entry()}, EIGHT),
        ({"a": entry(offsets=(0, 12), shape=(3,))}, b"12"),
    ):
        file_of(path, header, data)
        with pytest.raises(BadInput, match="changed while it was read"):
            read_tensors(path, before)


def test_an_adapter_is_equal_only_to_itself() -> None:
    one, two = adapter_of({}), adapter_of({})
    assert one != two and len({one, two, one}) == 2


# What is not believed.


def file_of(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file in the container's layout, with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = b"\0" * 8
HOSTILE = {
    "empty": (b"", "is empty: download it again"),
    "text": (b"hello, this is not an adapter", "not a safetensors file but a text"),
    "an answer of a server": (b'{"error": "log in first"}', "not a safetensors file but a text"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "but a picture: name it .png"),
    "a ZIP archive": (b"PK\x03\x04" + bytes(22) + b"lora.safetensors" + bytes(300), "unpack it"),
    "shorter than told": (struct.pack("<Q", 2**62) + b"{}", "not a safetensors file"),
    "a web page": (b"<!DOCTYPE html><html></html>", "not a safetensors file but a web page"),
    "GGUF": (b"GGUF\x03" + bytes(40), "a GGUF file, the quantised weights of a whole model"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
}
TWICE = f'{{"a": {json.dumps(entry())}, "a": {json.dumps(entry())}}}'.encode()
HEADERS = {
    "no JSON": (b'{"a": ', b"", "invalid JSON in header"),
    "nested beyond reason": (
        b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        b"",
        "recursion limit",
    ),
    "a name twice": (TWICE, EIGHT, "'a' is given twice"),
    "no entry": ({"a": 3}, b"", "invalid type"),
    "unknown dtype": ({"a": entry(dtype="C64", shape=(1,))}, EIGHT, "a as C64"),
    "negative side": ({"a": entry(shape=(-2, -1))}, EIGHT, "invalid value: integer `-2`"),
    "huge shape": ({"a": entry(shape=(2**62, 2**62))}, EIGHT, "overflow computing buffer size"),
    "huge and empty": (
        {"a": entry(shape=(0, 2**62), offsets=(0, 0))},
        b"",
        "no adapter that Studio knows",
    ),
    "shape and bytes differ": (
        {"a": entry(shape=(3,))},
        EIGHT,
        "invalid shape, data type, or offset",
    ),
    "sides of text": ({"a": entry(shape=("2",))}, EIGHT, 'invalid type: string "2"'),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, EIGHT, "invalid offset for tensor `a`"),
    "offsets before the start": (
        {"a": entry(offsets=(-8, 0))},
        EIGHT,
        "invalid value: integer `-8`",
    ),
    "overlapping": ({"a": entry(), "b": entry()}, EIGHT, "invalid offset for tensor"),
    "gap": ({"a": entry(offsets=(8, 16))}, EIGHT * 2, "invalid offset for tensor `a`"),
    "too short": ({"a": entry()}, b"1234", "not fully covered"),
    "too long": ({"a": entry()}, EIGHT * 2, "not fully covered"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "expected a"),
    "metadata of lists": ({"__metadata__": [1]}, b"", "expected a"),
    "nothing inside": ({}, b"", "holds no tensors"),
    "a header too large": (b"{" + b" " * (33 * 2**20) + b"}", b"", "more than any adapter needs"),
    "not finite": (
        {f"{CONV}.diff": entry(shape=(2, 1))},
        struct.pack("<ff", 1.0, float("nan")),
        "contains NaN or Inf",
    ),
    "its own account damaged": (
        {"__metadata__": {"studio": "[}"}, f"{CONV}.diff": entry(shape=(2, 1))},
        EIGHT,
        "`studio` metadata",
    ),
    "its own account incomplete": (
        {"__metadata__": {"studio": '{"version": 1}'}, f"{CONV}.diff": entry(shape=(2, 1))},
        EIGHT,
        "not complete",
    ),
    "of a newer Studio": (
        {"__metadata__": {"studio": '{"version": 2}'}, f"{CONV}.diff": entry(shape=(2, 1))},
        EIGHT,
        "newer Studio",
    ),
    "peft's account damaged": (
        {"__metadata__": {"lora_adapter_metadata": "["}, f"{CONV}.diff": entry(shape=(2, 1))},
        EIGHT,
        "lora_adapter_metadata is not JSON",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, case: str) -> None:
    content, words = HOSTILE[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        load_adapter(path)


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    header, data, words = HEADERS[case]
    with pytest.raises(BadInput, match=words):
        load_adapter(file_of(tmp_path / "x.safetensors", header, data))


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.adapters.safetensors_header.MOST_TENSORS", 3)
    header = {str(n): entry(offsets=(8 * n, 8 * n + 8)) for n in range(4)}
    with pytest.raises(BadInput, match="4 tensors, more than any adapter has"):
        load_adapter(file_of(tmp_path / "x.safetensors", header, EIGHT * 4))


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x.ckpt", "x.safetensors"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickles_are_never_opened(tmp_path: Path, name: str, how: str) -> None:
    path = tmp_path / name
    if how == "torch":
        torch.save({"lora": Trap()}, path)
    else:
        path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadInput, match=r"is a pickle, .* convert it once with python"):
        load_adapter(path)


def test_a_header_as_long_as_a_pickles_first_bytes_is_no_pickle(tmp_path: Path) -> None:
    path, filling = tmp_path / "x.safetensors", 0
    for _ in range(2):
        write_tensors(path, {f"{CONV}.diff": torch.ones(2, 2)}, {"ss_comment": "x" * filling})
        filling = 0x280 - int.from_bytes(path.read_bytes()[:8], "little")
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert load_adapter(path).family == ""


@pytest.mark.parametrize("thumbnail", ["data:image/png;base64,AAAA", "nonsense", "bomb"])
def test_a_preview_that_cannot_be_shown_is_left_out(tmp_path: Path, thumbnail: str) -> None:
    if thumbnail == "bomb":
        chunk = struct.pack(">II5B", 50_000, 50_000, 8, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + chunk
        png += struct.pack(">I", zlib.crc32(b"IHDR" + chunk))
        thumbnail = "data:image/png;base64," + base64.b64encode(png).decode()
    metadata = {"modelspec.thumbnail": thumbnail}
    write_tensors(tmp_path / "x.safetensors", {f"{CONV}.diff": torch.ones(2, 2)}, metadata)
    assert load_adapter(tmp_path / "x.safetensors").preview is None


@pytest.mark.parametrize("path", ["absent.safetensors", ".", "a" * 5000, "a" * 5000 + ":b"])
def test_a_path_without_an_adapter_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadInput, match="no adapter"):
        load_adapter(tmp_path / path)


def test_a_half_that_is_none_is_told_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    write_tensors(file, {f"{CONV}.diff": torch.ones(2, 2)}, {})
    with pytest.raises(BadInput, match=r"no half :look .* has :content and :style"):
        load_adapter(f"{file}:look")


# Whether it fits.


def low(out: int = 64, inner: int = 64) -> LowRank:
    return LowRank(torch.randn(2, inner), torch.randn(out, 2), 2.0)


def test_every_form_fits_the_base_it_was_made_for(sdxl: Base, tmp_path: Path) -> None:
    adapter = replace(adapter_of(every_form()), fingerprint=sdxl.fingerprint())
    path = adapter.save(tmp_path / "a.safetensors")
    coverage = check_fits(load_adapter(path, base=sdxl), sdxl)
    assert coverage.sentence == "8 of 8 layers matched, base tiny-sdxl"


def test_layers_that_the_base_lacks_are_counted(sdxl: Base) -> None:
    lacking = "unet.down_blocks.7.attentions.0.proj_in"
    coverage = check_fits(adapter_of({f"{BLOCK}.attn1.to_q": low(), lacking: low()}), sdxl)
    assert coverage.sentence == "1 of 2 layers matched, base tiny-sdxl"
    assert coverage.missing == (lacking,)


def test_another_family_is_refused(sd1_folder: Path) -> None:
    words = "made for Stable Diffusion XL, and the base tiny-sd1 is Stable Diffusion 1"
    with pytest.raises(BadInput, match=words):
        check_fits(adapter_of(every_form()), load_base(sd1_folder))


def test_an_adapter_that_matches_nothing_is_refused(sdxl: Base) -> None:
    with pytest.raises(
        BadInput, match=r"no layer that the base tiny-sdxl has: its first is unet\.x"
    ):
        check_fits(adapter_of({"unet.x": low()}), sdxl)
    with pytest.raises(BadInput, match="changes nothing"):
        check_fits(adapter_of({}), sdxl)


@pytest.mark.parametrize(
    "delta",
    [
        low(64, 32),
        low(32, 64),
        Kron(torch.ones(4, 2), torch.ones(16, 16)),
        Sparse(torch.arange(3), torch.ones(3), (64, 65)),
        Dense(torch.ones(64, 65)),
    ],
)
def test_another_size_is_refused_with_both_sizes(sdxl: Base, delta: Delta) -> None:
    with pytest.raises(BadInput, match=r"its unet\..*to_q is \d+ x \d+, and that of .* is 64 x 64"):
        check_fits(adapter_of({f"{BLOCK}.attn1.to_q": delta}), sdxl)


def test_a_bias_that_the_base_lacks_is_refused(sdxl: Base) -> None:
    to_q, to_out = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn1.to_out.0"
    delta = Dense(torch.ones(64, 64), torch.ones(64))
    assert check_fits(adapter_of({to_out: delta}), sdxl).matched == 1
    with pytest.raises(BadInput, match=r"changes the bias of unet\..*to_q, which has none in"):
        check_fits(adapter_of({to_q: delta}), sdxl)


# What is told without loading.


def test_describe_tells_of_a_file_that_names_no_family(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {f"{CONV}.diff": torch.ones(2, 2)}, {})
    told = describe(tmp_path / "a.safetensors")
    assert (told["family"], told["halves"]) == ("", [])


def test_describe_tells_of_a_file_without_its_tensors(tmp_path: Path) -> None:
    saved = adapter_of(every_form())
    path = saved.save(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    path.write_bytes(whole[:header] + b"\xff" * (len(whole) - header))  # NaN in every float
    with pytest.raises(BadInput, match="NaN or Inf"):
        load_adapter(path)
    told = describe(path)
    assert told["parameters"] == sum(
        p.numel() for delta in saved.deltas.values() for p in delta.parameters()
    )
    assert told["layers"] == {"text_encoder": 1, "unet": 7}
    assert told["forms"] == {"lora": 3, "lokr": 3, "sparse": 1, "diff": 1}
    assert told["ranks"] == {"2": 2, "4": 2}  # of three LoRA, and of a LoKr in two factors
    assert told["bytes"] == path.stat().st_size
    assert (told["kind"], told["family"], told["base"]) == ("lora", "sdxl", "sketch")
    assert told["triggers"] == ["a sks robot", "in ink style"] and told["preview"] is True
    json.dumps(told)
