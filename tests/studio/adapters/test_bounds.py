"""What a file says is checked before anything is computed from it: sizes and number types.

Nothing but an adapter or a sentence comes out, whatever stands in a file.
"""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor

from studio.adapters import load
from studio.adapters.adapter import Adapter
from studio.adapters.delta import BiasOnly, Dense, Kron, LowRank, Rotation, Sparse
from studio.adapters.formats.names import kohya_name
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.errors import BadInput

Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
NAME = kohya_name(Q, "sdxl")
LONG = 8192  # a weight of so many outputs and inputs is twice as large as any of SDXL
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FLOATS += [torch.float8_e4m3fn, torch.float8_e5m2]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> Base:
    return load_base(sdxl_folder)


def written(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """A LyCORIS file with these tensors of one layer."""
    path = folder / "a.safetensors"
    save_file({f"{NAME}.{leaf}": tensor for leaf, tensor in tensors.items()}, path)
    return path


BOMBS = {
    "lora": {"lora_down.weight": torch.ones(1, LONG), "lora_up.weight": torch.ones(LONG, 1)},
    "lora with a middle": {
        "lora_down.weight": torch.ones(1, LONG),
        "lora_mid.weight": torch.ones(1, 1, 1, 1),
        "lora_up.weight": torch.ones(LONG, 1),
    },
    "lora of a large rank": {
        "lora_down.weight": torch.ones(1, LONG),
        "lora_mid.weight": torch.ones(LONG, 1, 1, 1),
        "lora_up.weight": torch.ones(1, LONG),
    },
    "loha": {
        f"hada_{leaf}": torch.ones(shape)
        for one in ("1", "2")
        for leaf, shape in {
            f"t{one}": (1, 1, 1, 1),
            f"w{one}_a": (1, LONG),
            f"w{one}_b": (1, LONG),
        }.items()
    },
    "loha of a large rank": {
        f"hada_{leaf}": torch.ones(shape)
        for one in ("1", "2")
        for leaf, shape in {
            f"t{one}": (1, LONG, 1, 1),
            f"w{one}_a": (1, LONG),
            f"w{one}_b": (LONG, 1),
        }.items()
    },
    "lokr": {
        "lokr_w1": torch.ones(1, 1),
        "lokr_t2": torch.ones(1, 1, 1, 1),
        "lokr_w2_a": torch.ones(1, LONG),
        "lokr_w2_b": torch.ones(1, LONG),
    },
    "oft": {"oft_R.weight": torch.zeros(1, LONG * (LONG - 1) // 2, dtype=torch.float8_e5m2)},
    "sparse": {
        "sparse_gaps": torch.zeros(1, dtype=torch.uint8),
        "sparse_value": torch.ones(1),
        "sparse_shape": torch.tensor([LONG, LONG]),
    },
}


@pytest.mark.parametrize("form", BOMBS)
def test_a_weight_larger_than_any_of_a_base_is_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(BadInput, match=r"8192.* numbers, more than any layer of SDXL"):
        load_adapter(written(tmp_path, BOMBS[form]))


def test_many_weights_that_are_large_together_are_refused(tmp_path: Path) -> None:
    block = "unet.up_blocks.0.attentions.0.transformer_blocks"
    tensors = {
        f"{block}.{number}.attn1.to_q.lora_{side}.weight": torch.ones(shape, dtype=torch.float16)
        for number in range(300)
        for side, shape in {"A": (1, 4096), "B": (4096, 1)}.items()
    }
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="changes 5,033,164,800 numbers of a base"):
        load_adapter(tmp_path / "a.safetensors")


def test_a_weight_of_another_size_than_the_bases_is_never_computed(
    sdxl: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {
        f"hada_{leaf}": torch.ones(shape)
        for one in ("1", "2")
        for leaf, shape in {
            f"t{one}": (1, 1, 3, 3),
            f"w{one}_a": (1, 60),
            f"w{one}_b": (1, 60),
        }.items()
    }
    monkeypatch.setattr(torch, "einsum", None)
    with pytest.raises(BadInput, match=r"its .*to_q is 60 x 60 x 3 x 3, and that of .* 64 x 64"):
        load_adapter(written(tmp_path, tensors), base=sdxl)


@pytest.mark.parametrize(
    ("tensors", "side"),
    [
        ({"oft_R.weight": torch.ones(2, 28)}, "inputs"),
        ({"oft_blocks": torch.ones(2, 8, 8)}, "outputs"),
        ({"rotation_in": torch.ones(2, 8, 8)}, "inputs"),
        ({"rotation_out_shared": torch.ones(1, 24, 24)}, "outputs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_rotation_of_other_sides_than_the_bases_is_never_computed(
    sdxl: Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensors: dict[str, Tensor],
    side: str,
) -> None:
    monkeypatch.setattr(load, "read_tensors", None)
    with pytest.raises(BadInput, match=rf"rotates {side} of .*to_q in . blocks of .*, 64 x 64"):
        load_adapter(written(tmp_path, tensors), base=sdxl)


def factors(form: str) -> dict[str, Tensor]:
    """The tensors of a layer of 8 x 6, all of whole numbers that every dtype holds."""
    shapes = {
        "lora": {"lora_down.weight": (2, 6), "lora_up.weight": (8, 2)},
        "loha": {f"hada_w{n}_{s}": (8, 2) if s == "a" else (2, 6) for n in "12" for s in "ab"},
        "lokr": {"lokr_w1": (4, 2), "lokr_w2_a": (2, 1), "lokr_w2_b": (1, 3)},
        "diff": {"diff": (8, 6), "diff_b": (8,)},
    }
    return {leaf: torch.randint(0, 2, shape).float() for leaf, shape in shapes[form].items()}


def change(path: Path) -> Tensor:
    return load_adapter(path).deltas[Q].dense(torch.zeros(8, 6))


@pytest.mark.parametrize("second", FLOATS)
@pytest.mark.parametrize("first", FLOATS)
@pytest.mark.parametrize("form", ["lora", "loha", "lokr", "diff"])
def test_fractions_of_any_width_are_read_also_beside_each_other(
    tmp_path: Path, form: str, first: torch.dtype, second: torch.dtype
) -> None:
    plain = factors(form)
    expected = change(written(tmp_path, plain))
    mixed = {
        leaf: tensor.to(first if number else second)
        for number, (leaf, tensor) in enumerate(plain.items())
    }
    path = written(tmp_path, mixed)
    assert torch.equal(change(path), expected)
    layer, x = torch.nn.Linear(6, 8), torch.ones(1, 6)
    with torch.no_grad():
        assert torch.isfinite(load_adapter(path).to(dtype=torch.float32).deltas[Q](layer, x)).all()


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("form", ["lora", "loha", "lokr", "diff"])
def test_whole_numbers_are_refused_by_their_names(
    tmp_path: Path, form: str, dtype: torch.dtype
) -> None:
    tensors = factors(form)
    last = list(tensors)[-1]
    tensors[last] = tensors[last].to(dtype)
    with pytest.raises(BadInput, match=f"{NAME}.{last} of whole numbers"):
        load_adapter(written(tmp_path, tensors))


def test_magnitudes_for_fewer_inputs_than_the_bases_are_refused(sdxl: Base, tmp_path: Path) -> None:
    tensors = {"lora_down.weight": torch.ones(2, 64), "lora_up.weight": torch.ones(64, 2)}
    path = written(tmp_path, tensors | {"dora_scale": torch.ones(1, 32)})
    with pytest.raises(BadInput, match=r"32 magnitudes for .*to_q, which is 64 x 64 in the base"):
        load_adapter(path, base=sdxl)


LEAVES = ["lora_down.weight", "lora_up.weight", "lora_mid.weight", "dora_scale", "alpha"]
LEAVES += ["diff", "diff_b", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1"]
LEAVES += ["hada_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"]
LEAVES += ["lokr_t2", "sparse_gaps", "sparse_value", "sparse_shape", "oft_blocks", "rescale"]
LEAVES += ["oft_R.weight", "oft_R.scaled_oft", "rotation_in", "rotation_out_shared"]
TENSORS = st.builds(
    lambda shape, dtype, fill: torch.full(shape, fill).to(dtype),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(FLOATS + WHOLE),
    st.sampled_from([0.0, 1.0, 3.0, -7.0, 300.0, 1e30]),
)
SOUND = {
    form: {**factors(form), "alpha": torch.tensor(1.0)} for form in ("lora", "loha", "lokr", "diff")
} | {
    "sparse": Sparse(torch.tensor([5, 40]), torch.ones(2), (8, 6)).tensors(),
    "oft of inputs": {"oft_R.weight": torch.ones(2, 3), "oft_R.scaled_oft": torch.tensor(True)},
    "oft of outputs": {
        "oft_blocks": torch.ones(2, 4, 4),
        "rescale": torch.ones(8, 1),
        "alpha": torch.tensor(1.0),
    },
    "bias": {"diff_b": torch.ones(8)},
}
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Tensor]:
    """A layer's tensors in other dtypes, and some of them replaced, added or left out."""
    sound = SOUND[draw(st.sampled_from([*SOUND]))]
    dtypes = st.dictionaries(st.sampled_from([*sound]), st.sampled_from(FLOATS + WHOLE), max_size=2)
    cast = {leaf: sound[leaf].to(dtype) for leaf, dtype in draw(dtypes).items()}
    leaf = st.sampled_from([*sound, *LEAVES])
    others = draw(st.dictionaries(leaf, TENSORS, max_size=1))
    left_out = draw(st.sets(leaf, max_size=1))
    tensors = sound | cast | others
    return {leaf: tensor for leaf, tensor in tensors.items() if leaf not in left_out}


def read_or_refuse(path: Path) -> None:
    """Read a file as far as a picture needs it; a refusal is a sentence."""
    try:
        adapter = load_adapter(path)
    except BadInput as refusal:
        assert str(refusal).startswith(str(path)), refusal
        return
    assert isinstance(adapter, Adapter)
    for delta in adapter.deltas.values():
        if isinstance(delta, Rotation | BiasOnly):  # their shape is the base's
            side = 8 if isinstance(delta, BiasOnly) else math.prod(delta.layout)
            assert delta.dense(torch.ones(side, side)).shape == (side, side)
            continue
        assert isinstance(delta, LowRank | Kron | Sparse | Dense)
        magnitude = None if isinstance(delta, Sparse) else delta.magnitude
        if magnitude is not None and magnitude.ndim > 1 and magnitude.numel() < delta.shape[1]:
            continue  # of a flattened convolution: only its base knows the inputs
        assert delta.dense(torch.zeros(delta.shape)).shape == delta.shape


@QUICK
@given(tensors=layers())
def test_any_tensors_are_an_adapter_or_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    read_or_refuse(written(tmp_path, tensors))


@QUICK
@given(
    form=st.sampled_from([*SOUND]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.floats(0, 1),
)
def test_any_bytes_are_an_adapter_or_are_refused(
    tmp_path: Path, form: str, places: list[tuple[float, int]], cut: float | None
) -> None:
    data = bytearray(save({f"{NAME}.{leaf}": one for leaf, one in SOUND[form].items()}))
    for at, byte in places:
        data[min(int(at * len(data)), len(data) - 1)] = byte
    path = tmp_path / "bytes.safetensors"
    path.write_bytes(data if cut is None else data[: int(cut * len(data))])
    read_or_refuse(path)
