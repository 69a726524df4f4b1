"""The weights that UNet and text encoders really have in a picture, against peft's and LyCORIS's.

An adapter of each kind in each dialect is merged by the program that made it. The weights are
looked at in each call of the models, layer by layer, under merge and under switch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compose import Merge, Switch, render
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.requests.shot import Shot
from tests.dialects import (
    DIALECTS,
    Model,
    lora_in,
    merged_by_peft,
    trained_in_lycoris,
    trained_in_peft,
    with_names,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*invalid shape", "ignore:Invalid .oft_block_size")

Weights = dict[str, Tensor]
LINEAR = (
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2",
    "unet.up_blocks.0.attentions.1.transformer_blocks.1.attn2.to_out.0",
    "text_encoder.encoder.layers.0.self_attn.q_proj",
    "text_encoder_2.text_model.encoder.layers.1.mlp.fc1",
)
LAYERS = (*LINEAR, "unet.mid_block.resnets.0.conv1", "unet.conv_out")
NORMS = ("unet.mid_block.resnets.0.norm1", "text_encoder.encoder.layers.0.layer_norm1")
LORA = {"r": 4, "lora_alpha": 6}
IN_PEFT: dict[str, tuple[Any, dict[str, Any]]] = {
    "rsLoRA with biases": (peft.LoraConfig, LORA | {"use_rslora": True, "lora_bias": True}),
    "DoRA": (peft.LoraConfig, LORA | {"use_dora": True}),
    "LoKr": (peft.LoKrConfig, {"r": 2, "alpha": 3}),
    "LoHa": (peft.LoHaConfig, {"r": 2, "alpha": 3}),
    "OFT": (peft.OFTConfig, {"r": 0, "oft_block_size": 8}),
}
# Of LoHa and LoKr, LyCORIS merges the alpha twice and trains it once: so it is the rank.
IN_LYCORIS: dict[str, dict[str, Any]] = {
    "lora": {"algo": "lora", "linear_alpha": 3},
    "DoRA": {"algo": "lora", "linear_alpha": 3, "dora_wd": True},
    "loha": {"algo": "loha", "linear_alpha": 4},
    "lokr": {"algo": "lokr", "linear_alpha": 4, "factor": 4},
    "full": {"algo": "full"},
    "diag-oft": {"algo": "diag-oft"},
}
CASES = [("peft's folders", kind) for kind in IN_PEFT]
CASES += [("kohya", "peft's LoRA"), ("kohya", "OneTrainer's OFT"), ("kohya", "kohya's OFT")]
CASES += [(dialect, kind) for dialect in DIALECTS for kind in ("lora", "full")]
CASES += [("kohya", kind) for kind in ("DoRA", "loha", "lokr", "diag-oft")]


def made(dialect: str, kind: str, model: Model, to: Path) -> Weights:
    """Write an adapter of random numbers; the tensors of its layers with it merged."""
    to.mkdir()
    if dialect == "peft's folders":
        return in_folders(kind, model, to)
    if kind == "peft's LoRA":
        trained = trained_in_peft(model, peft.LoraConfig, LORA, LAYERS)
        tensors, merged = lora_in(dialect, model, trained), merged_by_peft(trained)
    elif kind == "OneTrainer's OFT":
        trained = trained_in_peft(model, *IN_PEFT["OFT"], LINEAR)
        tensors, merged = oft_of_onetrainer(dialect, model, trained), merged_by_peft(trained)
    else:
        tensors, merged = by_lycoris(dialect, kind, model)
    save_file(tensors, to / "adapter_model.safetensors")
    return merged


def in_folders(kind: str, model: Model, to: Path) -> Weights:
    sort, options = IN_PEFT[kind]
    # Of convolutions peft merges OFT otherwise than it trains it, and it adds no new bias.
    names = LINEAR[1:] if sort is peft.OFTConfig or "lora_bias" in options else LAYERS
    trained = trained_in_peft(model, sort, options, names)
    for component, one in trained.items():
        one.save_pretrained(to / component)
    return merged_by_peft(trained)


def oft_of_onetrainer(dialect: str, model: Model, trained: dict[str, Any]) -> Weights:
    """peft's rotations, of which OneTrainer has the module, by kohya's names."""
    tensors = {}
    for component, one in trained.items():
        for key, tensor in peft.get_peft_model_state_dict(one).items():
            path = key.removeprefix("base_model.model.").removesuffix(".oft_R.weight")
            name = DIALECTS[dialect](model, component, path)
            tensors[f"{name}.oft_R.weight"] = tensor.detach()
    return tensors


def by_lycoris(dialect: str, kind: str, model: Model) -> tuple[Weights, Weights]:
    """Its tensors, and the layers' with it merged. kohya's OFT is LyCORIS's by another prefix."""
    turns = kind in ("diag-oft", "kohya's OFT")
    options = {"linear_dim": 4, "train_norm": not turns}
    options |= IN_LYCORIS["diag-oft" if turns else kind]
    names = with_names(dialect, LAYERS if turns else (*LAYERS, *NORMS))
    tensors, merged = trained_in_lycoris(dialect, model, options, names)
    if kind == "kohya's OFT":
        tensors = {key.replace("lora_unet", "oft_unet"): one for key, one in tensors.items()}
    return tensors, {name: one.detach() for name, one in merged().items()}


@dataclass
class Watch:
    """The tensors of layers in each call of a model. seen: by component."""

    model: Model
    names: list[str]
    seen: dict[str, list[Weights]] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [
            part.register_forward_pre_hook(self._look(component))
            for component, part in self.model.parts.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _look(self, component: str) -> Callable[..., None]:
        def look(part: nn.Module, *_: object) -> None:
            own = {f"{component}.{key}": one for key, one in part.state_dict().items()}
            wanted = {name: own[name].clone() for name in self.names if name in own}
            self.seen.setdefault(component, []).append(wanted)

        return look


def assert_close(found: Weights, expected: Weights) -> None:
    for name, one in found.items():
        message = f"{name} is off by {(one - expected[name]).abs().max():.2g}"
        torch.testing.assert_close(one, expected[name], rtol=1e-5, atol=1e-5, msg=message)


@pytest.mark.parametrize(("dialect", "kind"), CASES)
def test_layers_have_the_weights_that_the_program_merges(
    sdxl: Base, tmp_path: Path, dialect: str, kind: str
) -> None:
    model = Model.of("sdxl", sdxl.unet, sdxl.text_encoders)
    torch.manual_seed(0)
    merged = [
        made(dialect, kind, model, tmp_path / "one"),
        made("peft's folders", "DoRA", model, tmp_path / "two"),
    ]
    adapters = [load_adapter(tmp_path / name, base=sdxl) for name in ("one", "two")]
    every = {n: p for c, part in model.parts.items() for n, p in named(c, part)}
    own = {name: every[name].clone() for name in {*merged[0], *merged[1]}}
    assert sum(not torch.equal(own[name], one) for name, one in merged[0].items()) >= 4
    for strength in (1.0, 0.5):
        changes = [
            {name: strength * (one.get(name, own[name]) - own[name]) for name in own}
            for one in merged
        ]
        together = {name: own[name] + changes[0][name] + changes[1][name] for name in own}
        in_turn = [{name: own[name] + one[name] for name in own} for one in changes]
        pairs = tuple((adapter, strength) for adapter in adapters)
        for method, expected in ((Merge(), [together]), (Switch(1), in_turn)):
            watch = Watch(model, list(own))
            with watch.watching():
                shot = Shot("a cat", steps=2, adapters=pairs, method=method)
                render(sdxl, shot, output="latents")
            assert len(watch.seen["unet"]) == 2
            for calls in watch.seen.values():
                for step, found in enumerate(calls):
                    assert_close(found, expected[step % len(expected)])
    assert all(torch.equal(every[name], one) for name, one in own.items())


def named(component: str, part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, one in part.named_parameters():
        yield f"{component}.{name}", one
