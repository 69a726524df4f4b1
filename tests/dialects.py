"""What the programs that train adapters call a model's layers, and adapters that they trained.

The names are written down here and in tests/original.py, and share nothing with the reader. peft
and LyCORIS make the adapters, at random, and merge them.
"""

import copy
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lycoris
import peft
import torch
from torch import Tensor, nn

from tests.original import original_unet_name

NORMS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, repr=False)
class Model:
    """A UNet and its text encoders. layers: their names, "unet.conv_in" say, and modules."""

    family: str
    parts: dict[str, nn.Module]
    layers: dict[str, nn.Module]

    @classmethod
    def of(cls, family: str, unet: nn.Module, text_encoders: Iterable[nn.Module]) -> "Model":
        parts = {"unet": unet}
        parts |= dict(zip(("text_encoder", "text_encoder_2"), text_encoders, strict=False))
        layers: dict[str, nn.Module] = {
            f"{component}.{path}": module
            for component, part in parts.items()
            for path, module in part.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d, *NORMS))
        }
        return cls(family, parts, layers)

    def __repr__(self) -> str:
        return self.family

    @cached_property
    def unet_weights(self) -> dict[str, Tensor]:
        return self.parts["unet"].state_dict()

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


def flat(text: str) -> str:
    return text.replace(".", "_")


def sgm(model: Model, path: str) -> str:
    """A module's name in the authors' UNet."""
    return original_unet_name(f"{path}.weight", model.unet_weights, 2).removesuffix(".weight")


def text_path(path: str) -> str:
    """A module's name in CLIP, whose first level transformers 5 leaves out."""
    return path if path.startswith(("text_model", "text_projection")) else f"text_model.{path}"


def kohya_text(model: Model, component: str) -> str:
    return "lora_te" if model.family != "sdxl" else f"lora_te{2 if component[-1] == '2' else 1}"


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
    return f"lora_unet_{flat(sgm(model, path) if model.family == 'sdxl' else path)}"


def old_onetrainer_name(model: Model, component: str, path: str) -> str:
    """diffusers' names with kohya's prefixes, also for SDXL."""
    return f"lora_unet_{flat(path)}" if component == "unet" else kohya_name(model, component, path)


def onetrainer_name(model: Model, component: str, path: str) -> str:
    return f"unet.{sgm(model, path)}" if component == "unet" else f"{component}.{text_path(path)}"


def comfyui_name(model: Model, component: str, path: str) -> str:
    if component == "unet":
        return f"diffusion_model.{sgm(model, path)}"
    clip = "clip_h" if model.family == "sd2" else "clip_l"
    clip = "clip_g" if component == "text_encoder_2" else clip
    return f"text_encoders.{clip}.transformer.{text_path(path)}"


def nested_name(model: Model, component: str, path: str) -> str:
    """Of a model of peft that was saved as a whole."""
    return f"{component}.base_model.model.{path}"


DIALECTS = {
    "diffusers": diffusers_name,
    "peft in diffusers": nested_name,
    "kohya": kohya_name,
    "OneTrainer, before": old_onetrainer_name,
    "OneTrainer": onetrainer_name,
    "ComfyUI": comfyui_name,
} | {name: lambda model, _, path, of=of: of(model, path) for name, of in UNET_ONLY.items()}


def with_names(dialect: str, names: Collection[str]) -> list[str]:
    """The layers for which a dialect has names."""
    return [name for name in names if dialect not in UNET_ONLY or name.startswith("unet.")]


def randomise(model: nn.Module, words: str) -> None:
    """Give an adapter's parameters values; those that scale stay near one."""
    for name, parameter in model.named_parameters():
        if re.search(words, name):
            near_one = re.search("dora_scale|magnitude|rescale", name)
            nn.init.normal_(parameter, mean=1.0 if near_one else 0.0, std=0.1)


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


def lora_in(dialect: str, model: Model, trained: dict[str, Any]) -> dict[str, Tensor]:
    """peft's LoRAs with a dialect's names and kohya's ends, the alpha a tensor of each layer."""
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
    return {key: one.detach().contiguous() for key, one in tensors.items()}


def trained_in_lycoris(
    dialect: str, model: Model, options: dict[str, Any], names: Collection[str]
) -> tuple[dict[str, Tensor], Callable[[], dict[str, Tensor]]]:
    """A network's tensors in a dialect's names, and what merges it: the layers' tensors then."""
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

    def merged() -> dict[str, Tensor]:
        network.merge_to(1.0)
        return piece.state_dict()

    return tensors, merged
