"""A base whose weights are stored in 8 or 4 bits: what is rounded, learned, and kept."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, UntypedStorage, nn

import trainers
from studio import Base
from studio.adapters.delta import attach
from studio.bases.load import load_base
from studio.bases.quantized import widened
from studio.bases.quantized.layers import quantize_layers
from studio.bases.quantized.widened import widening_again
from studio.bases.real_config import real_config
from studio.bases.vae_tiles import use_tiles
from studio.cost.memory import module_bytes
from studio.cost.speed import Speed
from studio.errors import BadInput
from studio.requests.training import read_request
from tests.quantized import FORMS, fp8_rows, installed, round_weights, rounded_weights
from tests.trainers.engine.test_estimate import really, started
from tests.trainers.learning import NEAR, assert_lent, assert_resumes, learned, lora_request
from tests.trainers.reference import peft_training
from trainers import OFT, BLoRA, DiffuseKronA, Kind, LoRA, Recipe, SaRA, TLoRA
from trainers.engine.data.randomness import generator_for
from trainers.engine.estimate.memory_model import training_cost
from trainers.engine.kind import new_deltas

CPU = torch.device("cpu")
KINDS = {
    "lora": LoRA(rank=2),
    "all layers": LoRA(rank=2, targets="all"),
    "dora": LoRA(rank=2, dora=True),
    "pissa": LoRA(rank=2, start="pissa", dropout=0.3),
    "diffusekrona": DiffuseKronA(),
    "sara": SaRA(budget=3000),
    "blora": BLoRA(rank=2),
    "oft": OFT(),
    "tlora": TLoRA(rank=2),
}


@pytest.fixture(scope="module")
def quantized(sdxl_folder: Path) -> dict[str, Base]:
    """The tiny SDXL in each form that can be had, which trainings lend."""
    return {}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    installed(request.param)
    return request.param


@pytest.fixture
def stored(form: str, sdxl_folder: Path, quantized: dict[str, Base]) -> Base:
    if form not in quantized:
        quantized[form] = load_base(sdxl_folder, device="cpu", quantize=form)
    return quantized[form]


@pytest.fixture
def rounded(form: str, sdxl_folder: Path, quantized: dict[str, Base]) -> Base:
    """Plain weights that have the rounded numbers."""
    if f"rounded to {form}" not in quantized:
        quantized[f"rounded to {form}"] = round_weights(load_base(sdxl_folder, device="cpu"), form)
    return quantized[f"rounded to {form}"]


def test_rows_in_fp8_are_rounded_each_in_its_own_steps() -> None:
    weight = torch.randn(5, 4, 3, 3) * torch.tensor([1e-6, 0.005, 0.02, 1, 300]).view(5, 1, 1, 1)
    weight[0] = 0
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layer = nn.Conv2d(4, 5, 3, dtype=dtype)
        layer.weight.data = weight.to(dtype)
        quantize_layers({"unet.mid_block.conv": layer}, "fp8", CPU)
        assert layer.weight.dtype == dtype
        # Every number of the format, in such steps, is one of the other dtypes too.
        own = weight.to(dtype).double()
        assert torch.equal(layer.weight[1:].double(), fp8_rows(own[1:]))
        assert not layer.weight[0].any()
        assert (layer.weight.double() - own).abs().flatten(1).norm(dim=1).div(
            own.flatten(1).norm(dim=1).clamp_min(1e-9)
        ).max() < 0.04
        assert module_bytes(layer) == weight.numel() + 5 + 5 * layer.bias.itemsize  # pyright: ignore


def test_weights_are_those_of_the_form(form: str, stored: Base, sdxl: Base) -> None:
    expected = rounded_weights(sdxl, form)
    for name, layer in stored.layers().items():
        own = expected.get(name, sdxl.layers()[name].weight)
        assert torch.equal(layer.weight, own), name  # pyright: ignore
    assert stored.fingerprint() == sdxl.fingerprint()
    linear = stored.layers()["unet.mid_block.attentions.0.proj_in"]
    assert module_bytes(linear) < {"fp8": 0.3, "nf4": 0.5}[form] * 4 * 64 * 64


def test_steps_equal_peft_on_rounded_weights(
    float64: None, sdxl_folder: Path, folder: Path, tmp_path: Path
) -> None:
    kind = LoRA(rank=4, alpha=2)
    base = load_base(sdxl_folder, device="cpu", dtype="fp64", quantize="fp8")
    start = new_deltas(kind, base, generator=generator_for(3, "start"))
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
    plain = load_base(sdxl_folder, device="cpu", dtype="fp64")
    for name, weight in rounded_weights(plain, "fp8").items():
        pipeline.unet.get_submodule(name.removeprefix("unet.")).weight.data.copy_(weight)
    pipeline.save_pretrained(tmp_path / "rounded")
    options = {"steps": 6, "seed": 3, "schedule": "constant"}
    adapter, ours = learned(kind, base, folder, tmp_path / "run", **options)
    theirs, expected = peft_training(tmp_path / "rounded", folder, kind, start, steps=6)
    assert ours == pytest.approx(theirs, abs=1e-5)
    for name, delta in adapter.deltas.items():
        for own, tensor in delta.tensors().items():
            key = f"{name.removeprefix('unet.')}.{own}"
            torch.testing.assert_close(tensor, expected[key], **NEAR)


@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [*((name, False) for name in KINDS), ("lora", True), ("sara", True)],
)
def test_every_kind_learns_what_it_learns_of_rounded_weights(
    name: str,
    checkpointing: bool,
    form: str,
    stored: Base,
    rounded: Base,
    folder: Path,
    tmp_path: Path,
) -> None:
    if (name, form) == ("sara", "nf4"):
        return  # it is refused, see below
    given = {"steps": 1, "batch": 1, "checkpointing": checkpointing}
    with assert_lent(stored):
        adapter, losses = learned(KINDS[name], stored, folder, tmp_path / "stored", **given)
    plain, expected = learned(KINDS[name], rounded, folder, tmp_path / "rounded", **given)
    assert losses == expected
    for layer, delta in plain.deltas.items():
        for own, tensor in delta.tensors().items():
            assert torch.equal(adapter.deltas[layer].tensors()[own], tensor), layer


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_half_precision_is_computed_of_the_stored_weights(
    dtype: str, form: str, sdxl_folder: Path, folder: Path, tmp_path: Path
) -> None:
    """With autocast, and without it on a base in bf16."""
    given = {"steps": 2, "batch": 1, "precision": "bf16"}
    base = load_base(sdxl_folder, device="cpu", dtype=dtype, quantize=form)
    with assert_lent(base):
        _, losses = learned(LoRA(rank=2), base, folder, tmp_path / "stored", **given)
    plain = round_weights(load_base(sdxl_folder, device="cpu", dtype=dtype), form)
    _, expected = learned(LoRA(rank=2), plain, folder, tmp_path / "rounded", **given)
    assert losses == pytest.approx(expected, rel=1e-6)


def test_a_stopped_training_goes_on_the_same(
    form: str, stored: Base, sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    assert_resumes(LoRA(rank=2, dora=True), stored, folder, tmp_path, after=1, steps=2)
    assert f'quantize = "{form}"' in (tmp_path / "cut" / "recipe.toml").read_text()
    assert trainers.base_of(tmp_path / "cut")["quantize"] == form
    (tmp_path / "cut" / "adapter.safetensors").rename(tmp_path / "learned.safetensors")
    with pytest.raises(BadInput, match=rf"stored as {form}, and those of .* as none: open it so"):
        trainers.resume(tmp_path / "cut", sdxl)


def test_the_adapter_says_what_it_was_trained_on(
    form: str, stored: Base, sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    adapter, _ = learned(LoRA(rank=2), stored, folder, tmp_path / "stored", steps=1)
    plain, _ = learned(LoRA(rank=2), sdxl, folder, tmp_path / "plain", steps=1)
    assert adapter.recipe and plain.recipe and adapter.recipe["quantize"] == form
    assert {n: v for n, v in adapter.recipe.items() if n != "quantize"} == plain.recipe
    assert adapter.deltas.keys() == plain.deltas.keys()


@pytest.mark.parametrize("kind", [LoRA(rank=4), OFT()])
def test_autograd_keeps_no_widened_weight(
    kind: Kind, stored: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = started(kind, stored)
    stored.unet.requires_grad_(False).train()
    said = training_cost(stored, deltas, Recipe(batch=2))
    kept: dict[int, UntypedStorage] = {}
    really_pack = widened._pack

    def pack(tensor: Tensor) -> object:
        packed = really_pack(tensor)
        if isinstance(packed, Tensor):
            storage = packed.untyped_storage()
            kept[storage.data_ptr()] = storage
        return packed

    monkeypatch.setattr(widened, "_pack", pack)
    with attach(stored.layers(), deltas):
        with widening_again():
            predicted = really(stored, batch=2)
        predicted.square().mean().backward()
    modules = (stored.unet, *deltas.values())
    own = {t.data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    stored.unet.eval()
    assert said.saved == sum(one.nbytes() for place, one in kept.items() if place not in own)


@pytest.mark.parametrize(("form", "unet", "most"), [("fp8", 2.578, 4.13), ("nf4", 1.833, 3.38)])
def test_sdxl_learns_in_4_gigabytes(
    form: str, unet: float, most: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Counted for a GPU; the base is opened with `low_memory`, as it would not fit."""
    installed(form)
    base = real_config("sdxl", dtype="bf16", quantize=form)
    base.offload = True
    gpu, speed = torch.device("cuda"), Speed(1e12, 1e11, 1e-5)
    module = "trainers.engine.estimate.estimate"
    monkeypatch.setattr(f"{module}.device_of", lambda base: gpu)
    monkeypatch.setattr(f"{module}.has_own_memory", lambda device: True)
    monkeypatch.setattr(f"{module}.measure_speed", lambda *_, **__: speed)
    monkeypatch.setattr(f"{module}.free_bytes", lambda device: None)

    use_tiles(base.vae)
    given = {"batch": 1, "checkpointing": True}
    said = trainers.estimate(LoRA(rank=16), base, runs=tmp_path, drawing=False, **given)
    assert module_bytes(base.unet) / 1e9 == pytest.approx(unet, abs=0.001)
    assert said.bytes / 1e9 == pytest.approx(most, abs=0.05)


def test_weights_that_are_merged_in_are_not_rounded_again(stored: Base) -> None:
    """A LoRA in NF4 would be rounded away."""
    name = "unet.mid_block.attentions.0.proj_in"
    layer, changed = stored.layers()[name], torch.rand(64, 64)
    before = layer.weight.clone()  # pyright: ignore
    with stored.use_weights({name: changed}):
        assert torch.equal(layer.weight, changed)  # pyright: ignore
        assert torch.equal(layer(torch.eye(64)), (changed + layer.bias[:, None]).T)  # pyright: ignore
    assert torch.equal(layer.weight, before)  # pyright: ignore


def test_sara_is_refused_where_small_weights_are_alike(
    folder: Path, quantized: dict[str, Base]
) -> None:
    installed("nf4")
    request = lora_request(folder)
    object.__setattr__(request, "kind", "sara")
    object.__setattr__(request, "loading", {"quantize": "nf4"})
    with pytest.raises(BadInput, match=r"sara starts from .* which nf4 leaves too little of"):
        trainers.check(request)
    with pytest.raises(BadInput, match="open the base with quantize fp8 or none"):
        trainers.count(SaRA(budget=3000), quantized["nf4"])


def test_a_form_that_cannot_be_had_is_refused(
    sdxl_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="no form 'int8' to quantize to: choose none, fp8, nf4"):
        load_base(sdxl_folder, quantize="int8")
    monkeypatch.setattr("studio.bases.quantized.layers.find_spec", lambda module: None)
    for refused in (
        lambda: load_base(sdxl_folder, quantize="nf4"),
        lambda: real_config("sdxl", quantize="nf4"),
    ):
        with pytest.raises(BadInput, match="not installed: run `pip install bitsandbytes`"):
            refused()


@pytest.mark.parametrize(("fp8", "quantize"), [("true", "fp8"), ("false", None)])
def test_recipes_of_before_say_fp8_among_the_options(
    fp8: str, quantize: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        f'kind = "lora"\ntrigger = "sks"\npictures = "photos"\ndtype = "bf16"\n'
        f"[recipe]\nsteps = 5\nfp8 = {fp8}\n"
    )
    request = read_request(file)
    assert dict(request.recipe) == {"steps": 5}
    assert request.loading.get("quantize") == quantize and request.loading["dtype"] == "bf16"


def test_all_of_a_stored_weight_moves_with_its_layer(stored: Base) -> None:
    """As offload moves the UNet."""
    layer = copy.deepcopy(stored.layers()["unet.mid_block.attentions.0.proj_in"])
    before = module_bytes(layer)
    layer.to("meta")
    for part in layer.modules():
        tables = vars(part)["_parameters"], vars(part)["_buffers"], vars(part)
        tensors = [t for table in tables for t in table.values() if isinstance(t, Tensor)]
        assert all(tensor.is_meta for tensor in tensors)
    assert module_bytes(layer) == before
    assert layer.weight.is_meta and layer.weight.shape == (64, 64)  # pyright: ignore
