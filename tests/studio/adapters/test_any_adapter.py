"""Whatever peft and LyCORIS can train, saved in any dialect, loads to the weights that they merge.

Drawn at random: the form and its options, and the names of the file. The oracle is the program
that made the change. The dialects' names are written down here and share nothing with the reader.
"""

import copy
import re
import tempfile
from pathlib import Path
from typing import Any

import lycoris
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.load import load_base

# What peft warns of: a bias's vector, patterns that fit no layer, and blocks that it makes smaller.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*invalid shape", "ignore:The following alpha_pattern", "ignore:Invalid .oft_block_size"
)
SGM = {
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.resnets.1": "middle_block.2",
}
SGM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}


class Part(nn.Module):
    """The middle block alone, under its name in the UNet."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.mid_block = copy.deepcopy(base.unet.mid_block)


@pytest.fixture(scope="module")
def part(sd1_folder: Path) -> Part:
    return Part(load_base(sd1_folder))


def sgm(path: str) -> str:
    """A module's name in the authors' UNet."""
    for ours, theirs in SGM.items():
        if path.startswith(ours):
            rest = path.removeprefix(f"{ours}.")
            return f"{theirs}.{SGM_RESNET.get(rest, rest)}"
    raise AssertionError(path)


DIALECTS = {
    "diffusers": lambda path: f"unet.{path}",
    "bare": lambda path: path,
    "LyCORIS": lambda path: f"lycoris_{path.replace('.', '_')}",
    "kohya, SD 1": lambda path: f"lora_unet_{path.replace('.', '_')}",
    "kohya, SDXL": lambda path: f"lora_unet_{sgm(path).replace('.', '_')}",
    "sgm": sgm,
    "ComfyUI": lambda path: f"diffusion_model.{sgm(path)}",
    "OneTrainer": lambda path: f"unet.{sgm(path)}",
}
names = st.sampled_from(sorted(DIALECTS))
ranks, alphas = st.integers(1, 6), st.sampled_from([0.5, 1.0, 3.0, 8.0])
flag = st.booleans()
targets = st.sampled_from(
    [["to_q"], ["to_out.0", "ff.net.2"], ["proj_in", "to_k"], ["conv1"], ["conv2", "to_v"]]
)
LORA = st.fixed_dictionaries(
    {"r": ranks, "lora_alpha": alphas, "use_rslora": flag, "use_dora": flag, "lora_bias": flag}
    | {"alpha_pattern": st.sampled_from([{}, {r".*attn1\.to_(q|k)": 5}, {"conv1": 2, "to_q": 7}])}
).map(lambda drawn: drawn | {"lora_bias": drawn["lora_bias"] and not drawn["use_dora"]})
LOKR = st.fixed_dictionaries(
    {"r": ranks, "alpha": alphas, "decompose_both": flag, "use_effective_conv2d": flag}
    | {"decompose_factor": st.sampled_from([-1, 2, 4])}
)
LOHA = st.fixed_dictionaries({"r": ranks, "alpha": alphas, "use_effective_conv2d": flag})
OFT = st.fixed_dictionaries(
    {"r": st.just(0), "oft_block_size": st.sampled_from([4, 8, 16]), "block_share": flag}
    | {"use_cayley_neumann": flag, "num_cayley_neumann_terms": st.integers(2, 6)}
)
in_peft = st.one_of(
    st.tuples(st.just(kind), options, targets)
    for kind, options in (
        (peft.LoraConfig, LORA),
        (peft.LoKrConfig, LOKR),
        (peft.LoHaConfig, LOHA),
        (peft.OFTConfig, OFT),
    )
)
IN_LYCORIS = st.fixed_dictionaries(
    {
        "algo": st.sampled_from(["lora", "loha", "lokr", "full", "diag-oft"]),
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


def randomise(model: nn.Module, words: str) -> None:
    """Give an adapter's parameters values; those that scale stay near one."""
    for name, parameter in model.named_parameters():
        if re.search(words, name):
            near_one = re.search("dora_scale|magnitude|rescale", name)
            nn.init.normal_(parameter, mean=1.0 if near_one else 0.0, std=0.1)


def assert_loads_to(path: Path, part: Part, merged: dict[str, Tensor]) -> None:
    """That the file changes every weight and bias of the part as the program did that wrote it."""
    found = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    for layer, delta in load_adapter(path).deltas.items():
        name = layer.removeprefix("unet.")
        found[f"{name}.weight"] += delta.dense(found[f"{name}.weight"]).detach()
        if delta.bias is not None:
            found[f"{name}.bias"] += delta.bias.detach()
    for name, expected in merged.items():
        assert torch.allclose(found[name], expected, rtol=1e-5, atol=1e-5), name


@given(drawn=in_peft, seed=st.integers(0, 2**16))
@quickly
def test_a_folder_of_peft(part: Part, drawn: Any, seed: int) -> None:
    kind, options, layers = drawn
    if kind is peft.OFTConfig:  # of a convolution it merges something else than it trains
        layers = [name for name in layers if not name.startswith("conv")] or ["to_q"]
    if options.get("lora_bias"):  # peft merges no bias into a layer that has none
        layers = [name for name in layers if name not in ("to_q", "to_k", "to_v")] or ["conv1"]
    torch.manual_seed(seed)
    config = kind(target_modules=layers, **options)
    with tempfile.TemporaryDirectory() as folder:
        model: Any = peft.get_peft_model(copy.deepcopy(part), config)  # pyright: ignore
        randomise(model, "lora_|lokr_|hada_|oft_")
        model.save_pretrained(folder)
        assert_loads_to(Path(folder), part, model.merge_and_unload().state_dict())


@given(options=LORA, layers=targets, dialect=names, seed=st.integers(0, 2**16))
@quickly
def test_a_lora_of_peft_in_other_names(
    part: Part, options: dict[str, Any], layers: list[str], dialect: str, seed: int
) -> None:
    """With kohya's ends of the names, of which the alpha is a tensor of each layer."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(target_modules=layers, **options | {"lora_bias": False})
    with tempfile.TemporaryDirectory() as folder:
        model: Any = peft.get_peft_model(copy.deepcopy(part), config)  # pyright: ignore
        randomise(model, "lora_")
        model.save_pretrained(folder)
        tensors = {}
        for key, tensor in load_file(f"{folder}/adapter_model.safetensors").items():
            path, _, leaf = key.removeprefix("base_model.model.").partition(".lora_")
            name = DIALECTS[dialect](path)
            layer: Any = model.base_model.model.get_submodule(path)
            rank = layer.r["default"]
            tensors[f"{name}.alpha"] = torch.tensor(layer.scaling["default"] * rank)
            if leaf == "magnitude_vector":
                sides = [1] * (layer.base_layer.weight.ndim - 1)
                tensors[f"{name}.dora_scale"] = tensor.reshape(-1, *sides)
            else:
                side = {"A.weight": "down", "B.weight": "up"}[leaf]
                tensors[f"{name}.lora_{side}.weight"] = tensor
        file = Path(folder, "given.safetensors")
        save_file(tensors, file)
        assert_loads_to(file, part, model.merge_and_unload().state_dict())


@given(options=IN_LYCORIS, dialect=names, seed=st.integers(0, 2**16))
@quickly
def test_any_network_of_lycoris(
    part: Part, options: dict[str, Any], dialect: str, seed: int
) -> None:
    torch.manual_seed(seed)
    if options["algo"] in ("loha", "lokr"):
        # Merging, LyCORIS 4.1.3 multiplies these twice by alpha / rank, and training once.
        options |= {"linear_alpha": options["linear_dim"], "conv_alpha": options["conv_dim"]}
    model = copy.deepcopy(part)
    network: Any = lycoris.create_lycoris(model, 1.0, **options)
    network.apply_to()
    randomise(network, ".")
    names = {path.replace(".", "_"): path for path, _ in part.named_modules()}
    tensors = {}
    for key, tensor in network.state_dict().items():
        module, _, leaf = key.partition(".")
        name = DIALECTS[dialect](names[module.removeprefix("lycoris_")])
        tensors[f"{name}.{leaf}"] = tensor.clone().contiguous()
    network.restore()
    network.merge_to(1.0)
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder, "given.safetensors"))
        assert_loads_to(Path(folder, "given.safetensors"), part, model.state_dict())
