"""Whatever peft and LyCORIS can train, saved in any dialect, loads to the weights that they merge.

Drawn at random: the layers of the whole UNet and the text encoders, the form and its options, and
the names of the file. The oracle is the program that made the change.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.adapters.delta import Rotation
from studio.adapters.load import load_adapter
from studio.bases.load import load_base
from studio.errors import BadInput
from tests.dialects import (
    DIALECTS,
    Model,
    lora_in,
    merged_by_peft,
    trained_in_lycoris,
    trained_in_peft,
    with_names,
)

# What peft warns of: a bias's vector, patterns that fit no layer, and blocks that it makes smaller.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*invalid shape",
    "ignore:The following alpha_pattern",
    "ignore:Invalid .oft_block_size",
    "ignore:Generating overly large repr",  # of a model, in the report of a failure
)


@pytest.fixture(scope="module")
def models(sd1_folder: Path, sd2_folder: Path, sdxl_folder: Path) -> dict[str, Model]:
    folders = {"sd1": sd1_folder, "sd2": sd2_folder, "sdxl": sdxl_folder}
    return {family: whole(family, folder) for family, folder in folders.items()}


def whole(family: str, folder: Path) -> Model:
    """The tiny model with two resnets a level, as the real ones have: sgm counts blocks by it."""
    base = load_base(folder)
    config = {**base.unet.config, "layers_per_block": 2}
    unet: Any = UNet2DConditionModel.from_config(config)
    return Model.of(family, unet, base.text_encoders)


families = st.sampled_from(["sd1", "sd2", "sdxl"])
ranks, alphas = st.integers(1, 6), st.sampled_from([0.5, 1.0, 3.0, 8.0])
flag = st.booleans()
LORA = st.fixed_dictionaries(
    {"r": ranks, "lora_alpha": alphas, "use_rslora": flag, "use_dora": flag, "lora_bias": flag}
    | {"alpha_pattern": st.sampled_from([{}, {r".*attn1\.to_(q|k)": 5}, {"conv1": 2, "fc1": 7}])}
).map(lambda drawn: drawn | {"lora_bias": drawn["lora_bias"] and not drawn["use_dora"]})
LOKR = st.fixed_dictionaries(
    {"r": ranks, "alpha": alphas, "decompose_both": flag, "use_effective_conv2d": flag}
    | {"decompose_factor": st.sampled_from([-1, 2, 4])}
)
LOHA = st.fixed_dictionaries({"r": ranks, "alpha": alphas, "use_effective_conv2d": flag})
OFT = st.fixed_dictionaries(
    {"r": st.just(0), "oft_block_size": st.sampled_from([2, 4, 8]), "block_share": flag}
    | {"use_cayley_neumann": flag, "num_cayley_neumann_terms": st.integers(2, 6)}
)
in_peft = st.one_of(
    st.tuples(st.just(peft.LoraConfig), LORA),
    st.tuples(st.just(peft.LoKrConfig), LOKR),
    st.tuples(st.just(peft.LoHaConfig), LOHA),
    st.tuples(st.just(peft.OFTConfig), OFT),
)
# What LyCORIS trains and Studio does not read: by its name, the words of the refusal.
REFUSED = {"glora": "GLoRA", "ia3": "IA3", "tlora": "T-LoRA", "boft": "BOFT"}
IN_LYCORIS = st.fixed_dictionaries(
    {
        "algo": st.sampled_from(["lora", "loha", "lokr", "full", "diag-oft", *REFUSED]),
        "linear_dim": ranks,
        "linear_alpha": alphas,
        "conv_dim": ranks,
        "conv_alpha": alphas,
        "use_tucker": flag,
        "train_norm": flag,
        "dora_wd": flag,
        "wd_on_output": flag,
        "factor": st.sampled_from([-1, 2, 4]),
        "decompose_both": flag,
        "full_matrix": flag,
        "unbalanced_factorization": flag,
        "rescaled": flag,
        "constraint": st.sampled_from([0, 1e-4, 1.0]),
    }
)
quickly = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


picks = st.lists(st.integers(0, 9999), min_size=1, max_size=4)


def some(names: Iterable[str], picked: list[int]) -> list[str]:
    """One to four layers."""
    ordered = sorted(names)
    return list(dict.fromkeys(ordered[pick % len(ordered)] for pick in picked))


def assert_loads_to(path: Path, model: Model, merged: dict[str, Tensor]) -> None:
    """That the file changes each weight and bias as the program did, and nothing else.

    merged: of the layers that it was to change.
    """
    found = {name: tensor.clone() for name, tensor in own_tensors(model, merged).items()}
    for layer, delta in load_adapter(path).deltas.items():
        name = layer
        if f"{name}.weight" not in found:  # transformers 5 has CLIP without its first level
            name = layer.replace(".text_model.", ".", 1)
        if delta.shape or isinstance(delta, Rotation):
            weight = found[f"{name}.weight"]
            found[f"{name}.weight"] = weight + delta.dense(weight).detach()
        if delta.bias is not None:
            found[f"{name}.bias"] += delta.bias.detach()
    for name, expected in merged.items():
        assert torch.allclose(found[name], expected, rtol=1e-5, atol=1e-5), name


def own_tensors(model: Model, names: Iterable[str]) -> dict[str, Tensor]:
    layers = {name.rpartition(".")[0] for name in names}
    return {
        f"{layer}.{key}": tensor
        for layer in layers
        for key, tensor in model.layers[layer].state_dict().items()
    }


def trainable(model: Model, kind: Any, options: dict[str, Any]) -> list[str]:
    """The layers that peft trains and merges alike."""
    names = model.names()
    if kind is peft.OFTConfig:  # of a convolution it merges something else than it trains
        names = [name for name in names if isinstance(model.layers[name], nn.Linear)]
    if options.get("lora_bias"):  # it merges no bias into a layer that has none
        names = [name for name in names if getattr(model.layers[name], "bias", None) is not None]
    return names


@given(picked=picks, family=families, drawn=in_peft, seed=st.integers(0, 2**16))
@quickly
def test_folders_of_peft(
    models: dict[str, Model], picked: list[int], family: str, drawn: Any, seed: int
) -> None:
    """A folder for each component, or the UNet's alone."""
    (kind, options), model = drawn, models[family]
    names = some(trainable(model, kind, options), picked)
    torch.manual_seed(seed)
    trained = trained_in_peft(model, kind, options, names)
    alone = trained.keys() == {"unet"} and seed % 2
    with tempfile.TemporaryDirectory() as folder:
        for component, one in trained.items():
            one.save_pretrained(folder if alone else f"{folder}/{component}")
        assert_loads_to(Path(folder), model, merged_by_peft(trained))


@given(picked=picks, family=families, options=LORA, seed=st.integers(0, 2**16))
@quickly
def test_loras_of_peft_that_diffusers_saves(
    models: dict[str, Model], picked: list[int], family: str, options: Any, seed: int
) -> None:
    model = models[family]
    names = some(trainable(model, peft.LoraConfig, options), picked)
    torch.manual_seed(seed)
    trained = trained_in_peft(model, peft.LoraConfig, options, names)
    given = {}
    for component, one in trained.items():
        given[f"{component}_lora_layers"] = peft.get_peft_model_state_dict(one)
        given[f"{component}_lora_adapter_metadata"] = one.peft_config["default"].to_dict()
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionXLPipeline.save_lora_weights(folder, **given)
        assert_loads_to(Path(folder), model, merged_by_peft(trained))


@given(
    picked=picks,
    family=families,
    options=LORA,
    dialect=st.sampled_from(sorted(DIALECTS)),
    seed=st.integers(0, 2**16),
)
@quickly
def test_loras_of_peft_in_other_names(
    models: dict[str, Model],
    picked: list[int],
    family: str,
    options: dict[str, Any],
    dialect: str,
    seed: int,
) -> None:
    """With kohya's ends of the names, of which the alpha is a tensor of each layer."""
    model, options = models[family], options | {"lora_bias": False}
    names = some(with_names(dialect, model.names()), picked)
    torch.manual_seed(seed)
    trained = trained_in_peft(model, peft.LoraConfig, options, names)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "given.safetensors")
        save_file(lora_in(dialect, model, trained), file)
        assert_loads_to(file, model, merged_by_peft(trained))


@given(
    picked=picks,
    family=families,
    options=IN_LYCORIS,
    dialect=st.sampled_from(sorted(DIALECTS)),
    seed=st.integers(0, 2**16),
)
@quickly
def test_any_network_of_lycoris(
    models: dict[str, Model],
    picked: list[int],
    family: str,
    options: dict[str, Any],
    dialect: str,
    seed: int,
) -> None:
    model = models[family]
    norms = options["train_norm"] and options["algo"] not in REFUSED
    names = some(with_names(dialect, model.names(norms=norms)), picked)
    torch.manual_seed(seed)
    if options["algo"] in ("loha", "lokr"):
        # Merging, LyCORIS 4.1.3 multiplies these twice by alpha / rank, and training once.
        same = {"linear_alpha": options["linear_dim"], "conv_alpha": options["conv_dim"]}
        options = options | same
    if options["algo"] == "boft":  # it has no blocks of every size
        options = options | {"linear_dim": 4, "conv_dim": 4}
    tensors, merged = trained_in_lycoris(dialect, model, options, names)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "given.safetensors")
        save_file(tensors, file)
        if refused := REFUSED.get(options["algo"]):
            with pytest.raises(BadInput, match=refused):
                load_adapter(file)
            return
        assert_loads_to(file, model, merged())
