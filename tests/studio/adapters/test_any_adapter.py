"""Whatever peft and LyCORIS can train, saved in any dialect, loads to the weights that they merge.

Drawn at random: the layers of the whole UNet and the text encoders, the form and its options, and
the names of the file. The oracle is the program that made the change. The dialects' names are
written down here and in tests/original.py, and share nothing with the reader.
"""

import copy
import re
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lycoris
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
from tests.original import original_unet_name

# What peft warns of: a bias's vector, patterns that fit no layer, and blocks that it makes smaller.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*invalid shape",
    "ignore:The following alpha_pattern",
    "ignore:Invalid .oft_block_size",
    "ignore:Generating overly large repr",  # of a model, in the report of a failure
)
NORMS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, repr=False)
class Model:
    """A UNet and its text encoders. layers: their names, "unet.conv_in" say, and modules."""

    family: str
    parts: dict[str, nn.Module]
    layers: dict[str, nn.Module]

    def __repr__(self) -> str:
        return self.family

    def names(self, *, norms: bool = False) -> list[str]:
        return [name for name, one in self.layers.items() if norms or not isinstance(one, NORMS)]

    def piece(self, names: Collection[str]) -> nn.Module:
        """A copy of these layers alone, in a tree in which they have their names."""
        root = nn.Module()
        for name in names:
            *above, last = name.split(".")
            at = root
            for word in above:
                if not hasattr(at, word):
                    at.add_module(word, nn.Module())
                at = getattr(at, word)
            at.add_module(last, copy.deepcopy(self.layers[name]))
        return root


@pytest.fixture(scope="module")
def models(sd1_folder: Path, sdxl_folder: Path) -> dict[str, Model]:
    return {"sd1": whole("sd1", sd1_folder), "sdxl": whole("sdxl", sdxl_folder)}


def whole(family: str, folder: Path) -> Model:
    """The tiny model with two resnets a level, as the real ones have: sgm counts blocks by it."""
    base = load_base(folder)
    config = {**base.unet.config, "layers_per_block": 2}
    parts: dict[str, Any] = {"unet": UNet2DConditionModel.from_config(config)}
    parts |= dict(zip(("text_encoder", "text_encoder_2"), base.text_encoders, strict=False))
    layers: dict[str, nn.Module] = {
        f"{component}.{path}": module
        for component, part in parts.items()
        for path, module in part.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, *NORMS))
    }
    return Model(family, parts, layers)


def flat(text: str) -> str:
    return text.replace(".", "_")


def sgm(model: Model, path: str) -> str:
    """A module's name in the authors' UNet."""
    keys = model.parts["unet"].state_dict()
    return original_unet_name(f"{path}.weight", keys, 2).removesuffix(".weight")


def text_path(path: str) -> str:
    """A module's name in CLIP, whose first level transformers 5 leaves out."""
    return path if path.startswith(("text_model", "text_projection")) else f"text_model.{path}"


def kohya_text(model: Model, component: str) -> str:
    return "lora_te" if model.family == "sd1" else f"lora_te{2 if component[-1] == '2' else 1}"


# What each program calls a layer. Those that are UNET_ONLY have no names for a text encoder's.
UNET_ONLY = {
    "bare": lambda model, path: path,
    "LyCORIS": lambda model, path: f"lycoris_{flat(path)}",
    "sgm": sgm,
}


def diffusers_name(model: Model, component: str, path: str) -> str:
    return f"{component}.{path}"


def kohya_name(model: Model, component: str, path: str) -> str:
    if component != "unet":
        return f"{kohya_text(model, component)}_{flat(text_path(path))}"
    return f"lora_unet_{flat(path if model.family == 'sd1' else sgm(model, path))}"


def old_onetrainer_name(model: Model, component: str, path: str) -> str:
    """diffusers' names with kohya's prefixes, also for SDXL."""
    return f"lora_unet_{flat(path)}" if component == "unet" else kohya_name(model, component, path)


def onetrainer_name(model: Model, component: str, path: str) -> str:
    return f"unet.{sgm(model, path)}" if component == "unet" else f"{component}.{text_path(path)}"


def comfyui_name(model: Model, component: str, path: str) -> str:
    if component == "unet":
        return f"diffusion_model.{sgm(model, path)}"
    clip = "clip_g" if component == "text_encoder_2" else "clip_l"
    return f"text_encoders.{clip}.transformer.{text_path(path)}"


DIALECTS = {
    "diffusers": diffusers_name,
    "kohya": kohya_name,
    "OneTrainer, before": old_onetrainer_name,
    "OneTrainer": onetrainer_name,
    "ComfyUI": comfyui_name,
} | {name: lambda model, _, path, of=of: of(model, path) for name, of in UNET_ONLY.items()}
families = st.sampled_from(["sd1", "sdxl"])
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
REFUSED = {"glora": "GLoRA", "ia3": "IA3", "tlora": "T-LoRA", "boft": "form that Studio"}
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


def randomise(model: nn.Module, words: str) -> None:
    """Give an adapter's parameters values; those that scale stay near one."""
    for name, parameter in model.named_parameters():
        if re.search(words, name):
            near_one = re.search("dora_scale|magnitude|rescale", name)
            nn.init.normal_(parameter, mean=1.0 if near_one else 0.0, std=0.1)


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


def trained_in_peft(
    model: Model, kind: Any, options: dict[str, Any], names: Collection[str]
) -> dict[str, Any]:
    """A model of peft for each component that these layers are of."""
    trained = {}
    for component in model.parts:
        of_it = [name for name in names if name.startswith(f"{component}.")]
        if of_it:
            paths = [name.removeprefix(f"{component}.") for name in of_it]
            piece = getattr(model.piece(of_it), component)
            trained[component] = peft.get_peft_model(piece, kind(target_modules=paths, **options))
            randomise(trained[component], "lora_|lokr_|hada_|oft_")
    return trained


def merged_by_peft(trained: dict[str, Any]) -> dict[str, Tensor]:
    return {
        f"{component}.{key}": tensor
        for component, one in trained.items()
        for key, tensor in one.merge_and_unload().state_dict().items()
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
    tensors = {}
    for component, one in trained.items():
        for key, tensor in peft.get_peft_model_state_dict(one).items():
            path, _, leaf = key.removeprefix("base_model.model.").partition(".lora_")
            name = DIALECTS[dialect](model, component, path)
            layer: Any = one.base_model.model.get_submodule(path)
            rank = layer.r["default"]
            tensors[f"{name}.alpha"] = torch.tensor(layer.scaling["default"] * rank)
            if leaf.startswith("magnitude_vector"):
                sides = [1] * (layer.base_layer.weight.ndim - 1)
                tensors[f"{name}.dora_scale"] = tensor.reshape(-1, *sides)
            else:
                side = {"A.weight": "down", "B.weight": "up"}[leaf]
                tensors[f"{name}.lora_{side}.weight"] = tensor
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "given.safetensors")
        save_file({key: one.detach().contiguous() for key, one in tensors.items()}, file)
        assert_loads_to(file, model, merged_by_peft(trained))


def with_names(dialect: str, names: Collection[str]) -> list[str]:
    """The layers for which a dialect has names."""
    return [name for name in names if dialect not in UNET_ONLY or name.startswith("unet.")]


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
    piece = model.piece(names)
    network: Any = lycoris.create_lycoris(piece, 1.0, **options)
    network.apply_to()
    randomise(network, ".")
    modules = {flat(path): path for path, _ in piece.named_modules()}
    tensors = {}
    for key, tensor in network.state_dict().items():
        module, _, leaf = key.partition(".")
        component, _, path = modules[module.removeprefix("lycoris_")].partition(".")
        tensors[f"{DIALECTS[dialect](model, component, path)}.{leaf}"] = tensor.contiguous()
    network.restore()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "given.safetensors")
        save_file(tensors, file)
        if refused := REFUSED.get(options["algo"]):
            with pytest.raises(BadInput, match=refused):
                load_adapter(file)
            return
        network.merge_to(1.0)
        assert_loads_to(file, model, piece.state_dict())
