"""Files of other programs read here, ours read there, and every layer's name both ways.

The oracles are diffusers' pipelines and converters, peft's layers, and LyCORIS's formulas written
out; none of them shares code with what is tested.
"""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers.loaders import lora_conversion_utils as converters
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft as to_peft_names
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.adapters.adapter import Adapter
from studio.adapters.compatibility import check_fits
from studio.adapters.delta import Delta, Dense, Kron, LowRank, Sparse, swap_weights
from studio.adapters.formats.convert import to_diffusers, to_kohya, to_lycoris
from studio.adapters.formats.names import SGM, SGM_RESNET, kohya_name, layer_name
from studio.adapters.load import load_adapter
from studio.adapters.tensor_file import write_tensors
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.real_config import real_config
from studio.errors import BadInput
from tests.dialects import DIALECTS, Model, text_path, with_names

FAMILIES = {"sd15": "sd1", "sd21": "sd2", "sdxl": "sdxl"}
Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_encoder.text_model.encoder.layers.3"
CONV = "unet.mid_block.resnets.0.conv1"


@pytest.fixture(scope="module", params=["sdxl", "sd1", "sd2"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_folder")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(folder)


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> Base:
    return load_base(sdxl_folder)


def pipeline(base: Base) -> Any:
    """diffusers' own pipeline of the same base (its mixins carry no types)."""
    kind = StableDiffusionXLPipeline if base.family == "sdxl" else StableDiffusionPipeline
    return kind.from_pretrained(base.source, safety_checker=None)


def outputs(unet: Any, encoders: tuple[Any, ...]) -> list[Tensor]:
    """What UNet and text encoders say to fixed inputs.

    In float64: these untrained UNets blow rounding up to the fourth decimal.
    """
    unet, *texts_read = (copy.deepcopy(part).double() for part in (unet, *encoders))
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    extra = {}
    if unet.config.addition_embed_type:
        pooled = noise(1, texts_read[1].config.projection_dim)
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}}
    texts = noise(1, 5, unet.config.cross_attention_dim)
    with torch.no_grad():
        seen = [unet(noise(1, 4, 8, 8), 7, texts, **extra).sample]
        for encoder in texts_read:
            found = encoder(torch.arange(6)[None], output_hidden_states=True)
            seen += [*found.hidden_states, found[0]]
    return seen


def ours(base: Base, adapter: Adapter) -> list[Tensor]:
    """The outputs of Studio's base with the adapter folded in."""
    check_fits(adapter, base)
    layers: dict[str, Any] = dict(base.layers())
    with torch.no_grad():
        merged = {
            name: layers[name].weight + delta.dense(layers[name].weight)
            for name, delta in adapter.deltas.items()
        }
    with swap_weights(base.layers(), merged):
        return outputs(base.unet, base.text_encoders)


def theirs(pipe: Any) -> list[Tensor]:
    second = getattr(pipe, "text_encoder_2", None)
    return outputs(pipe.unet, (pipe.text_encoder, *((second,) if second else ())))


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(one, two, strict=True))


def lora(base: Base, *, dora: bool = False, stabilised: bool = False) -> Adapter:
    """A low-rank adapter on every layer, of two ranks and two alphas."""
    deltas = {}
    for number, (name, layer) in enumerate(base.layers().items()):
        delta = LowRank.start(
            layer,
            4 if number % 3 else 2,
            alpha=3.0 if number % 5 else 1.5,
            rank_stabilised=stabilised,
            dora=dora,
        )
        nn.init.normal_(delta.up, std=0.05)
        deltas[name] = delta
    return Adapter(deltas=deltas, kind="lora", family=base.family)


# Names.


@pytest.mark.parametrize("config", FAMILIES)
def test_every_layer_of_the_real_models_maps_to_kohya_and_back(config: str) -> None:
    family = FAMILIES[config]
    layers = real_config(config).layers()
    names = {layer: kohya_name(layer, family) for layer in layers}
    assert len(set(names.values())) == len(layers) > 300
    for layer, name in names.items():
        assert layer_name(name) == layer
        assert layer_name(layer) == layer
        assert "." not in name


def sgm_name(module: str, family: str) -> str:
    """A UNet's module as Stability's checkpoints name it."""
    for name, other in SGM.items():
        fits = module.replace(".", "_").startswith((f"{other}_", other))
        if fits and (name != "output_blocks_2_1_conv" or family != "sdxl"):
            rest = module[len(other) + 1 :]
            inner = {theirs: ours for ours, theirs in SGM_RESNET.items()}.get(rest, rest)
            name = re.sub(r"_(?=\d)|(?<=\d)_", ".", f"{name}/{inner}")
            return name.replace("/", ".").strip(".")
    raise KeyError(module)


@pytest.mark.parametrize("config", FAMILIES)
def test_every_weight_of_the_real_unets_is_found_by_its_name_in_sgm(config: str) -> None:
    """Norms too. That the names are right is told by diffusers' converter of checkpoints."""
    base = real_config(config)
    weights = dict(base.unet.named_parameters())
    names = {}
    for ours in weights:
        module, _, kind = ours.rpartition(".")
        names[f"{sgm_name(module, base.family)}.{kind}"] = ours
    checkpoint = {f"model.diffusion_model.{name}": weights[ours] for name, ours in names.items()}
    converted = convert_ldm_unet_checkpoint(checkpoint, base.unet.config)
    assert len(converted) == len(names) == len(weights)
    assert all(converted[ours] is weights[ours] for ours in weights)
    for name, ours in names.items():
        module, layer = name.rpartition(".")[0], f"unet.{ours.rpartition('.')[0]}"
        dotted = (module, f"diffusion_model.{module}", f"unet.base_model.model.{module}")
        flat = (f"{prefix}_{module.replace('.', '_')}" for prefix in ("lora_unet", "lycoris"))
        assert {layer_name(one) for one in (*dotted, *flat)} == {layer}


@pytest.mark.parametrize("config", FAMILIES)
def test_every_layer_of_the_real_text_encoders_is_found_by_its_name_in_comfyui(config: str) -> None:
    base = real_config(config)
    first = "clip_h" if base.family == "sd2" else "clip_l"
    theirs = {"text_encoder": first, "text_encoder_2": "clip_g"}
    for layer in base.layers():
        component, _, path = layer.partition(".")
        if component != "unet":
            assert layer_name(f"text_encoders.{theirs[component]}.transformer.{path}") == layer


@pytest.mark.parametrize("config", FAMILIES)
def test_every_layer_of_the_real_models_is_found_by_its_name_in_every_dialect(config: str) -> None:
    """Norms too; each by a name of its own."""
    base = real_config(config)
    model = Model.of(FAMILIES[config], base.unet, base.text_encoders)
    assert len(base.layers_and_norms()) == len(model.layers) > 400
    for dialect, name_of in DIALECTS.items():
        found = {}
        for layer in with_names(dialect, model.names(norms=True)):
            component, _, path = layer.partition(".")
            ours = layer if component == "unet" else f"{component}.{text_path(path)}"
            name = name_of(model, component, path)
            assert layer_name(name) == ours, (dialect, name)
            assert found.setdefault(name, ours) == ours
            if dialect == "kohya":
                assert layer_name(name.replace("lora_unet", "oft_unet")) == ours
            if dialect == "bare":
                assert layer_name(f"base_model.model.{name}") == ours


@pytest.mark.parametrize("config", FAMILIES)
def test_diffusers_converter_finds_the_layers_that_we_mean(config: str) -> None:
    base = real_config(config)
    scalar = torch.zeros(1)
    keys: dict[str, Tensor] = {}
    for layer in base.layers():
        name = kohya_name(layer, FAMILIES[config])
        keys |= {f"{name}.lora_down.weight": scalar, f"{name}.lora_up.weight": scalar}
    keys = converters._maybe_map_sgm_blocks_to_diffusers(keys, base.unet.config)
    found, _ = converters._convert_non_diffusers_lora_to_diffusers(keys)
    unet = {k.removeprefix("unet."): v for k, v in found.items() if k.startswith("unet.")}
    seen = {k.removesuffix(".lora_A.weight") for k in to_peft_names(unet) if ".lora_A." in k}
    wanted = {k.removeprefix("unet.") for k in base.layers() if k.startswith("unet.")}
    assert seen == wanted
    downs = [k.rpartition(".down.")[0] for k in found if k.startswith("text_") and ".down." in k]
    texts = {layer_name(re.sub(r"[._]lora(_linear_layer)?$", "", down)) for down in downs}
    assert texts == {k for k in base.layers() if not k.startswith("unet.")}


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q",
        "lycoris_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q",
        "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q",
    ],
)
def test_dialects_of_one_name(name: str) -> None:
    assert layer_name(name) == Q


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("lora_te_text_model_encoder_layers_3_mlp_fc1", f"{TEXT}.mlp.fc1"),
        ("lora_te1_text_model_encoder_layers_3_mlp_fc1", f"{TEXT}.mlp.fc1"),
        ("lora_te2_text_projection", "text_encoder_2.text_projection"),
        ("text_encoder.encoder.layers.3.mlp.fc1", f"{TEXT}.mlp.fc1"),
        (f"{TEXT}.self_attn.to_out", f"{TEXT}.self_attn.out_proj"),
        (Q.replace("to_q", "processor.to_out"), Q.replace("to_q", "to_out.0")),
        ("lora_unet_double_blocks_0_img_attn_qkv", None),
        ("lora_unet_", None),
        ("somewhere_else", None),
        ("vae.conv_in", None),
    ],
)  # fmt: skip
def test_other_names(name: str, ours: str | None) -> None:
    assert layer_name(name) == ours


# diffusers and peft.


def test_our_files_load_in_diffusers_with_the_same_outputs(base: Base, tmp_path: Path) -> None:
    assert_loads_in_diffusers(base, lora(base), tmp_path)


def test_our_files_of_dora_load_in_diffusers_with_the_same_outputs(
    sdxl: Base, tmp_path: Path
) -> None:
    assert_loads_in_diffusers(sdxl, lora(sdxl, stabilised=True, dora=True), tmp_path)


def assert_loads_in_diffusers(base: Base, adapter: Adapter, folder: Path) -> None:
    path, pipe = adapter.save(folder / "adapter.safetensors"), pipeline(base)
    before = theirs(pipe)
    pipe.load_lora_weights(path)
    changed = theirs(pipe)
    assert same(ours(base, adapter), changed)
    assert not same(before, changed)


@pytest.mark.parametrize("dora", [False, True])
def test_files_that_diffusers_saves_load_here_with_the_same_outputs(
    base: Base, tmp_path: Path, dora: bool
) -> None:
    pipe = pipeline(base)
    targets = ["to_q", "to_out.0", "ff.net.2", "conv1"]
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, use_dora=dora, target_modules=targets
    )
    text = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "fc1"])
    pipe.unet.add_adapter(config)
    pipe.text_encoder.add_adapter(text)
    for part in (pipe.unet, pipe.text_encoder):
        for name, parameter in part.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    pipe.save_lora_weights(
        tmp_path,
        unet_lora_layers=peft.get_peft_model_state_dict(pipe.unet),
        text_encoder_lora_layers=peft.get_peft_model_state_dict(pipe.text_encoder),
        unet_lora_adapter_metadata=_plain(config),
        text_encoder_lora_adapter_metadata=_plain(text),
    )
    adapter = load_adapter(tmp_path, base=base)
    assert adapter.kind == "unknown"
    assert same(ours(base, adapter), theirs(pipe))


def _plain(config: peft.LoraConfig) -> dict[str, object]:
    """The configuration as diffusers' training scripts put it into a file."""
    return {k: list(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}


@pytest.mark.parametrize("dialect", ["lora.down", "processor.to_q_lora.down", "no prefix"])
def test_older_names_of_diffusers(sdxl: Base, tmp_path: Path, dialect: str) -> None:
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    old = Q.replace("to_q", "processor.to_q_lora")
    before, after = {
        "lora.down": (f"{Q}.lora.", ".weight"),
        "processor.to_q_lora.down": (f"{old}.", ".weight"),
        "no prefix": (f"{old.removeprefix('unet.')}.", ".weight"),
    }[dialect]
    save_file(
        {f"{before}down{after}": down, f"{before}up{after}": up}, tmp_path / "old.safetensors"
    )
    adapter = load_adapter(tmp_path / "old.safetensors", base=sdxl)
    assert torch.allclose(adapter.deltas[Q].dense(torch.zeros(64, 64)), up @ down, atol=1e-5)
    pipe = pipeline(sdxl)
    pipe.unet.load_lora_adapter(
        {
            k.removeprefix("unet."): v
            for k, v in ((f"{before}down{after}", down), (f"{before}up{after}", up))
        },
        prefix=None,
    )
    assert same(ours(sdxl, adapter), theirs(pipe))


@pytest.mark.parametrize("kind", ["lora", "lokr", "lokr decomposed", "loha"])
def test_files_of_peft_itself(sdxl: Base, tmp_path: Path, kind: str) -> None:
    targets = ["to_q", "conv1"]
    config = {
        "lora": peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=targets),
        "lokr": peft.LoKrConfig(r=64, alpha=6, target_modules=targets),
        "lokr decomposed": peft.LoKrConfig(
            r=2, alpha=6, decompose_both=True, target_modules=targets
        ),
        "loha": peft.LoHaConfig(r=2, alpha=6, target_modules=targets),
    }[kind]
    model = peft.get_peft_model(copy.deepcopy(sdxl.unet), config)  # pyright: ignore
    for name, parameter in model.named_parameters():
        if any(word in name for word in ("lora_", "lokr_", "hada_")):
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path, base=sdxl)
    unet = outputs(model.base_model.model, sdxl.text_encoders)
    assert same(ours(sdxl, adapter), unet)
    assert not same(outputs(sdxl.unet, sdxl.text_encoders), unet)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(BadInput, match="keep the two in one folder"):
        load_adapter(tmp_path)


# kohya.


def test_our_kohya_files_load_in_diffusers_with_the_same_outputs(
    base: Base, tmp_path: Path
) -> None:
    adapter = lora(base, stabilised=True)
    write_tensors(tmp_path / "many.safetensors", *to_kohya(adapter))
    again = load_adapter(tmp_path / "many.safetensors", base=base)
    assert again.family == base.family and again.kind == "lora"
    assert same(ours(base, again), ours(base, adapter))
    # diffusers misses the alphas of attention layers where a file has several: give it one.
    one: dict[str, Delta] = {
        layer: LowRank(delta.down, delta.up, 3.0)
        for layer, delta in adapter.deltas.items()
        if isinstance(delta, LowRank)
    }
    adapter = Adapter(deltas=one, kind="lora", family=base.family)
    write_tensors(tmp_path / "one.safetensors", *to_kohya(adapter))
    pipe = pipeline(base)
    pipe.load_lora_weights(tmp_path / "one.safetensors")
    assert same(ours(base, adapter), theirs(pipe))


def test_kohya_files_that_diffusers_writes_load_here(sd1_folder: Path, tmp_path: Path) -> None:
    base = load_base(sd1_folder)
    pipe = pipeline(base)
    pipe.unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "conv1"]))
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    state = {f"unet.{k}": v for k, v in peft.get_peft_model_state_dict(pipe.unet).items()}
    written = convert_state_dict_to_kohya(state)
    written = {k: torch.tensor(6.0) if k.endswith("alpha") else v for k, v in written.items()}
    save_file(
        {f"lora_{k}" if k[:4] == "unet" else k: v for k, v in written.items()},
        tmp_path / "k.safetensors",
    )
    assert same(ours(base, load_adapter(tmp_path / "k.safetensors", base=base)), theirs(pipe))


def test_a_missing_alpha_is_the_rank(tmp_path: Path) -> None:
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    name = kohya_name(Q, "sdxl")
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, tmp_path / "a.safetensors"
    )
    delta = load_adapter(tmp_path / "a.safetensors").deltas[Q]
    assert torch.allclose(delta.dense(torch.zeros(64, 64)), up @ down, atol=1e-5)


# LyCORIS.


def loaded(tmp_path: Path, tensors: Mapping[str, Tensor], layer: str = Q) -> Any:
    """The delta of a LyCORIS file with these tensors of one layer."""
    name = kohya_name(layer, "sdxl")
    whole = {f"{name}.{leaf}": tensor.contiguous() for leaf, tensor in tensors.items()}
    save_file(whole, tmp_path / "lycoris.safetensors")
    return load_adapter(tmp_path / "lycoris.safetensors").deltas[layer]


@pytest.mark.parametrize("rank", [2, 16])
def test_loha(tmp_path: Path, rank: int) -> None:
    a1, a2 = torch.randn(2, 64, rank)
    b1, b2 = torch.randn(2, rank, 48)
    tensors = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    delta = loaded(tmp_path, tensors | {"alpha": torch.tensor(1.0)})
    assert isinstance(delta, LowRank if rank == 2 else Dense)
    expected = (a1 @ b1) * (a2 @ b2) / rank
    assert torch.allclose(delta.dense(torch.zeros(64, 48)), expected, atol=1e-4)


def test_loha_of_a_flattened_convolution(tmp_path: Path) -> None:
    a1, a2 = torch.randn(2, 8, 2)
    b1, b2 = torch.randn(2, 2, 4 * 3 * 3)
    delta = loaded(
        tmp_path, {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}, CONV
    )
    layer = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    expected = ((a1 @ b1) * (a2 @ b2)).view(8, 4, 3, 3)
    assert torch.allclose(delta.dense(layer.weight), expected, atol=1e-5)
    x = torch.randn(1, 4, 5, 5)
    changed = nn.functional.conv2d(x, layer.weight + expected, padding=1)
    assert torch.allclose(delta(layer, x), changed, atol=1e-4)


def test_loha_of_a_tucker_convolution(tmp_path: Path) -> None:
    a1, a2 = torch.randn(2, 2, 8)
    b1, b2 = torch.randn(2, 2, 4)
    t1, t2 = torch.randn(2, 2, 2, 3, 3)
    delta = loaded(
        tmp_path,
        {"hada_t1": t1, "hada_w1_a": a1, "hada_w1_b": b1}
        | {"hada_t2": t2, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(1.0)},
        CONV,
    )
    change = delta.dense(torch.zeros(8, 4, 3, 3))
    for y in range(3):
        for x in range(3):
            one, two = a1.T @ t1[:, :, y, x] @ b1, a2.T @ t2[:, :, y, x] @ b2
            assert torch.allclose(change[:, :, y, x], one * two / 2, atol=1e-5)


def test_a_tucker_lora_is_its_three_convolutions(tmp_path: Path) -> None:
    down, mid, up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 8, 1)
    for one in (down, mid, up):
        one.bias = None
    delta = loaded(
        tmp_path,
        {"lora_down.weight": down.weight.data, "lora_mid.weight": mid.weight.data}
        | {"lora_up.weight": up.weight.data, "alpha": torch.tensor(1.0)},
        CONV,
    )
    assert isinstance(delta, LowRank) and delta.rank == 2
    layer, x = nn.Conv2d(4, 8, 3, padding=1), torch.randn(1, 4, 5, 5)
    assert torch.allclose(delta(layer, x), layer(x) + up(mid(down(x))) / 2, atol=1e-5)


def test_lokr_alpha_counts_only_where_a_factor_is_decomposed(tmp_path: Path) -> None:
    a, b = torch.randn(4, 2), torch.randn(16, 32)
    alpha = {"alpha": torch.tensor(1.0)}
    zeros = torch.zeros(64, 64)
    whole = loaded(tmp_path, {"lokr_w1": a, "lokr_w2": b} | alpha)
    assert isinstance(whole, Kron)
    assert torch.allclose(whole.dense(zeros), torch.kron(a, b))
    left, right = torch.randn(16, 3), torch.randn(3, 32)
    half = loaded(tmp_path, {"lokr_w1": a, "lokr_w2_a": left, "lokr_w2_b": right} | alpha)
    assert torch.allclose(half.dense(zeros), torch.kron(a, left @ right) / 3, atol=1e-5)
    one, two = torch.randn(4, 3), torch.randn(3, 2)
    pairs = {"lokr_w1_a": one, "lokr_w1_b": two, "lokr_w2_a": left, "lokr_w2_b": right}
    both = loaded(tmp_path, pairs | alpha)
    assert torch.allclose(both.dense(zeros), torch.kron(one @ two, left @ right) / 3, atol=1e-5)


def test_lokr_of_a_tucker_convolution(tmp_path: Path) -> None:
    a, left, right, t = (
        torch.randn(2, 2),
        torch.randn(3, 4),
        torch.randn(3, 2),
        torch.randn(3, 3, 3, 3),
    )
    delta = loaded(
        tmp_path, {"lokr_w1": a, "lokr_t2": t, "lokr_w2_a": left, "lokr_w2_b": right}, CONV
    )
    change = delta.dense(torch.zeros(8, 4, 3, 3))
    for y in range(3):
        for x in range(3):
            b = left.T @ t[:, :, y, x] @ right
            assert torch.allclose(change[:, :, y, x], torch.kron(a, b), atol=1e-5)


@pytest.mark.parametrize("by", ["row", "column"])
def test_dora_of_lycoris(tmp_path: Path, by: str) -> None:
    """LyCORIS's weight_decompose: dora_scale over the norm of each row; in old files, column."""
    down, up, weight = torch.randn(2, 64), torch.randn(64, 2), torch.randn(64, 64)
    axis = 1 if by == "row" else 0
    scale = torch.rand(64, 1) if by == "row" else torch.rand(1, 64)
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": scale}
    delta = loaded(tmp_path, tensors)
    total = weight + up @ down
    merged = total * (scale / total.norm(dim=axis, keepdim=True))
    assert torch.allclose(weight + delta.dense(weight), merged, atol=1e-5)


def test_full_changes_and_their_bias(tmp_path: Path) -> None:
    diff, bias = torch.randn(8, 4, 3, 3), torch.randn(8)
    delta = loaded(tmp_path, {"diff": diff, "diff_b": bias}, CONV)
    assert torch.equal(delta.dense(diff), diff)
    assert torch.equal(delta.bias, bias)


def test_any_adapter_survives_lycoris(tmp_path: Path) -> None:
    pair = torch.randn(16, 2), torch.randn(2, 32)
    rows = torch.rand(64)
    index = torch.randperm(64 * 64)[:100].int()
    deltas = {
        "0": LowRank(torch.randn(2, 64), torch.randn(64, 2), 3.0, rank_stabilised=True),
        "1": LowRank(torch.randn(2, 64), torch.randn(64, 2), 3.0, magnitude=rows),
        "2": LowRank(torch.randn(2, 64), torch.randn(64, 2), 3.0, magnitude=rows[None]),
        "3": Kron(torch.randn(4, 2), torch.randn(16, 32), scale=0.5),
        "4": Kron(torch.randn(4, 2), pair, scale=0.5, magnitude=rows),
        "5": Kron(torch.randn(4, 2), torch.randn(16, 32), rows_swapped=True),
        "6": Sparse(index, torch.randn(100), (64, 64)),
        "7": Dense(torch.randn(64, 64), torch.randn(64)),
    }
    deltas = {Q.replace("blocks.0", f"blocks.{n}"): delta for n, delta in deltas.items()}
    adapter = Adapter(deltas=deltas, kind="mixed", family="sdxl", triggers=("sks",))
    write_tensors(tmp_path / "l.safetensors", *to_lycoris(adapter))
    again = load_adapter(tmp_path / "l.safetensors")
    assert (again.kind, again.family, again.triggers) == ("mixed", "sdxl", ("sks",))
    weight = torch.randn(64, 64)
    assert again.deltas.keys() == deltas.keys()
    for layer, delta in deltas.items():
        read = again.deltas[layer]
        assert torch.allclose(read.dense(weight), delta.dense(weight), atol=1e-5), layer
        assert (read.bias is None) == (delta.bias is None)


@pytest.mark.parametrize("convert", [to_kohya, to_diffusers])
def test_what_a_format_cannot_hold_is_refused(convert) -> None:
    adapter = Adapter(
        deltas={Q: Kron(torch.randn(4, 2), torch.randn(16, 32))}, kind="lokr", family="sdxl"
    )
    with pytest.raises(BadInput, match="convert it to lycoris"):
        convert(adapter)


def test_diffusers_is_given_dora_for_all_layers_or_none() -> None:
    plain = LowRank(torch.randn(2, 64), torch.randn(64, 2), 3.0)
    dora = LowRank(torch.randn(2, 64), torch.randn(64, 2), 3.0, magnitude=torch.rand(64))
    mixed = Adapter(deltas={Q: plain, Q.replace("to_q", "to_k"): dora}, kind="lora", family="sdxl")
    with pytest.raises(BadInput, match="DoRA only in all layers"):
        to_diffusers(mixed)


# DiffuseKronA.


def test_files_of_diffusekronas_authors_are_known_by_their_shapes(tmp_path: Path) -> None:
    down, up = torch.randn(8, 64), torch.randn(5, 40)  # (a2, a1) and (b1, b2): 320 x 320
    old = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_{}_lora"
    tensors = {}
    for which in ("q", "k", "v", "out"):
        tensors |= {f"{old.format(which)}.down.weight": down, f"{old.format(which)}.up.weight": up}
    save_file({k: v.clone() for k, v in tensors.items()}, tmp_path / "krona.safetensors")
    deltas = load_adapter(tmp_path / "krona.safetensors").deltas
    assert sorted(name.rpartition("attn1.")[2] for name in deltas) == [
        "to_k",
        "to_out.0",
        "to_q",
        "to_v",
    ]
    x = torch.randn(2, 7, 320)
    hidden = x.view(-1, 40, 8).contiguous().view(-1, 8, 40).transpose(1, 2)
    expected = (up @ (hidden @ down)).view(2, 7, 320)
    for delta in deltas.values():
        assert torch.allclose(x @ delta.dense(torch.zeros(320, 320)).T, expected, atol=1e-4)


# What is refused, and what is told of files that say nothing.


@pytest.mark.parametrize("leaf", ["oft_diag", "a1.weight", "on_input", "lora_C.weight", "weight"])
def test_a_tensor_that_is_not_understood_is_named(tmp_path: Path, leaf: str) -> None:
    name = kohya_name(Q, "sdxl")
    tensors = {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(4, 2)}
    tensors[leaf] = torch.ones(2)
    save_file({f"{name}.{k}": v for k, v in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match=f"1 of 3 tensors .*: {name}.{leaf}"):
        load_adapter(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora_down.weight": torch.ones(2, 4)},
        {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(4, 3)},
        {"lora_down.weight": torch.ones(2), "lora_up.weight": torch.ones(4, 2)},
        {"lora_down.weight": torch.ones(0, 4), "lora_up.weight": torch.ones(4, 0)},
        {"lokr_w1": torch.ones(2, 4)},
        {"lokr_w1": torch.ones(2, 4), "lokr_w2_a": torch.ones(2, 3), "lokr_w2_b": torch.ones(2, 3)},
        {"hada_w1_a": torch.ones(2, 3)},
        {"diff_b": torch.ones(3, 3)},
        {"lora_B.bias": torch.ones(3)},
        {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(2, 2), "lora_B.bias": torch.ones(4)},
        {"sparse_gaps": torch.ones(1), "sparse_value": torch.ones(1)}
        | {"sparse_shape": torch.ones(2), "dora_scale": torch.ones(4)},
        {"diff": torch.ones(3, 3), "alpha": torch.ones(3)},
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(tmp_path: Path, tensors) -> None:
    with pytest.raises(BadInput, match="do not fit"):
        loaded(tmp_path, tensors)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"sparse_shape": torch.tensor([8, 9])}, "beyond its 72"),
        ({"sparse_shape": torch.tensor([-64, -64])}, "beyond"),
        ({"sparse_value": torch.ones(3)}, "3 values for 2 entries"),
        ({"sparse_gaps": torch.tensor([5.0, 3.0])}, "no bytes"),
    ],
)
def test_sparse_indices_are_checked(tmp_path: Path, damage: dict, words: str) -> None:
    tensors = Sparse(torch.tensor([5, 72]), torch.ones(2), (64, 64)).tensors()
    with pytest.raises(BadInput, match=words):
        loaded(tmp_path, tensors | damage)


@pytest.mark.parametrize("config", FAMILIES)
@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_the_family_of_a_silent_file(tmp_path: Path, config: str, dialect: str) -> None:
    family, tensors = FAMILIES[config], {}
    for layer, module in real_config(config).layers().items():
        if isinstance(module, nn.Linear) and layer.endswith(("to_q", "to_k", "q_proj")):
            out, inner = module.weight.shape
            name = kohya_name(layer, family) if dialect == "kohya" else layer
            low = ("lora_down", "lora_up") if dialect == "kohya" else ("lora_A", "lora_B")
            tensors[f"{name}.{low[0]}.weight"] = torch.zeros(1, inner, dtype=torch.float16)
            tensors[f"{name}.{low[1]}.weight"] = torch.zeros(out, 1, dtype=torch.float16)
    save_file(tensors, tmp_path / "silent.safetensors")
    assert load_adapter(tmp_path / "silent.safetensors").family == family


def test_a_file_that_tells_no_family_takes_the_bases(sd2_folder: Path, tmp_path: Path) -> None:
    base = load_base(sd2_folder)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {"lora_A.weight": torch.ones(2, 64), "lora_B.weight": torch.ones(64, 2)}
    save_file({f"{layer}.{k}": v for k, v in tensors.items()}, tmp_path / "a.safetensors")
    silent = load_adapter(tmp_path / "a.safetensors")
    assert silent.family == ""
    assert load_adapter(tmp_path / "a.safetensors", base=base).family == "sd2"
    with pytest.raises(BadInput, match="--family"):
        to_kohya(silent)


def test_what_kohya_says_of_a_file(tmp_path: Path) -> None:
    metadata = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_sd_model_name": "sd_xl_base.safetensors",
        "ss_output_name": "robot",
        "ss_learning_rate": "0.0001",
        "ss_tag_frequency": json.dumps({"tags": "x" * 1000}),
        "modelspec.trigger_phrase": "sks robot",
    }
    name = kohya_name(CONV, "sdxl")
    save_file({f"{name}.diff": torch.ones(4, 4)}, tmp_path / "k.safetensors", metadata=metadata)
    adapter = load_adapter(tmp_path / "k.safetensors")
    assert (adapter.name, adapter.family, adapter.base) == (
        "robot",
        "sdxl",
        "sd_xl_base.safetensors",
    )
    assert adapter.triggers == ("sks robot",)
    assert adapter.recipe["learning_rate"] == "0.0001" and "tag_frequency" not in adapter.recipe
