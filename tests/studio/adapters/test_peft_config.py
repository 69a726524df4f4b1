"""peft's configuration of a file, read as peft itself reads it: the oracle is its merged weight."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.adapters.adapter import Adapter
from studio.adapters.describe import describe
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.errors import BadInput
from tests.strangers import soon

TARGETS = ["to_q", "to_k", "to_out.0"]
PATTERNS: list[dict[str, int]] = [
    {},
    {"attn1.to_q": 32},
    {r"mid_block\..*to_q": 32},
    {r".*up_blocks\.\d+\..*(to_q|to_k)": 32},
    {"to_q|to_k": 32},
    {"^to_q": 32},  # fits no layer, as none is at the top
    {r"attn2\.to_k": 32, "to_k": 16},  # the first that fits
]


# peft says of patterns that they fit no layer, and of some starts that they change the base.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The following (alpha|rank)_pattern:RuntimeWarning",
    "ignore:.* changes the base weights",
    "ignore:.is_gradient_checkpointing",
)


@pytest.fixture(scope="module")
def base(sd1_folder: Path) -> Base:
    return load_base(sd1_folder)


def trained(unet: nn.Module, config: Any) -> Any:
    """peft's model around a copy of the UNet, with an adapter that changes something."""
    model = peft.get_peft_model(copy.deepcopy(unet), config)  # pyright: ignore
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def merged(base: Base, folder: Path) -> dict[str, Tensor]:
    """The weights after peft has read the folder and merged it."""
    model: Any = peft.PeftModel.from_pretrained(copy.deepcopy(base.unet), folder)
    return model.merge_and_unload().state_dict()


def assert_same_weights(base: Base, adapter: Adapter, expected: dict[str, Tensor]) -> None:
    own = base.unet.state_dict()
    changed = [name for name in own if not torch.equal(own[name], expected[name])]
    assert changed
    assert sorted(adapter.deltas) == sorted(f"unet.{name[:-7]}" for name in changed)
    for name in changed:
        found = own[name] + adapter.deltas[f"unet.{name[:-7]}"].dense(own[name])
        assert torch.allclose(found, expected[name], atol=1e-5), name


@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_alpha_patterns_are_read_as_peft_reads_them(
    base: Base, tmp_path: Path, patterns: dict[str, int]
) -> None:
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=TARGETS,
        alpha_pattern=patterns,
        rank_pattern={pattern: rank // 8 for pattern, rank in patterns.items()},
    )
    trained(base.unet, config).save_pretrained(tmp_path)
    assert_same_weights(base, load_adapter(tmp_path, base=base), merged(base, tmp_path))


@pytest.mark.parametrize("patterns", PATTERNS[:3], ids=str)
def test_what_a_diffusers_model_saves_of_itself_keeps_its_strengths(
    base: Base, tmp_path: Path, patterns: dict[str, int]
) -> None:
    """`save_lora_adapter` writes its metadata without a component's name before the keys."""
    unet: Any = copy.deepcopy(base.unet)
    unet.add_adapter(
        peft.LoraConfig(
            r=4, lora_alpha=16, use_rslora=True, target_modules=TARGETS, alpha_pattern=patterns
        )
    )
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    unet.save_lora_adapter(tmp_path)
    unet.fuse_lora()
    unet.unload_lora()
    adapter = load_adapter(tmp_path / "pytorch_lora_weights.safetensors", base=base)
    assert_same_weights(base, adapter, unet.state_dict())


def lora_file(path: Path, config: dict[str, object]) -> Path:
    """A file of one layer, with this configuration of the UNet as its metadata."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {"lora_A.weight": torch.ones(2, 64), "lora_B.weight": torch.ones(64, 2)}
    entries = {f"unet.{name}": value for name, value in config.items()}
    metadata = {"lora_adapter_metadata": json.dumps(entries)}
    save_file({f"unet.{layer}.{k}": v for k, v in tensors.items()}, path, metadata)
    return path


def test_a_pattern_that_takes_for_ever_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.adapters.formats.peft_config.PATTERN_SECONDS", 0.2)
    patterns = {rf"(([a-z]|\w|\.|_|\d)+)+[A-Z]{number}": 3 for number in range(100)}
    file = lora_file(tmp_path / "a.safetensors", {"r": 2, "alpha_pattern": patterns})
    with (
        soon(5),
        pytest.raises(BadInput, match=r"takes too long to compare .*: write it without nested"),
    ):
        load_adapter(file)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"alpha_pattern": {"(to_q": 3}}, r"its pattern '\(to_q': missing \)"),
        ({"alpha_pattern": ["to_q"]}, "its alpha_pattern is not a table"),
        ({"alpha_pattern": {"to_q": "3"}}, "its alpha_pattern is '3', which is no number"),
        ({"lora_alpha": True}, "its alpha is True, which is no number"),
        ({"peft_type": "VERA"}, "is of peft's kind VERA"),
        ({"use_qalora": True}, "has use_qalora"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(
    tmp_path: Path, config: dict[str, object], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        load_adapter(lora_file(tmp_path / "a.safetensors", config))


@pytest.mark.parametrize("start", ["pissa", "olora", "OLoRA"])
def test_adapters_that_start_by_changing_the_base_are_read_when_converted(
    base: Base, tmp_path: Path, start: str
) -> None:
    """Unconverted, the file holds where the training ended and not where it began."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        init_lora_weights=start,  # pyright: ignore[reportArgumentType]
        target_modules=TARGETS,
    )
    model: Any = peft.get_peft_model(copy.deepcopy(base.unet), config)  # pyright: ignore
    model.peft_config["default"].init_lora_weights = True  # peft asks for this
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = start
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "unconverted")
    model.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "start"
    )
    words = f"has init_lora_weights '{start}', .* write it as a plain LoRA with"
    with pytest.raises(BadInput, match=words):
        load_adapter(tmp_path / "unconverted", base=base)
    expected = copy.deepcopy(model).merge_and_unload().state_dict()
    assert_same_weights(base, load_adapter(tmp_path / "converted", base=base), expected)


def test_a_folder_for_each_component_is_one_adapter(sdxl_folder: Path, tmp_path: Path) -> None:
    base = load_base(sdxl_folder)
    parts = dict(
        zip(
            ("unet", "text_encoder", "text_encoder_2"),
            (base.unet, *base.text_encoders),
            strict=True,
        )
    )
    expected = {}
    for number, (name, part) in enumerate(parts.items(), start=1):
        targets = ["to_q"] if name == "unet" else ["q_proj"]
        config = peft.LoraConfig(r=2, lora_alpha=8 * number, target_modules=targets)
        model = trained(part, config)
        model.save_pretrained(tmp_path / name)
        expected[name] = model.merge_and_unload().state_dict()
    adapter = load_adapter(tmp_path, base=base)
    assert {layer.partition(".")[0] for layer in adapter.deltas} == set(parts)
    assert describe(tmp_path)["layers"] == dict(
        Counter(layer.partition(".")[0] for layer in adapter.deltas)
    )
    layers: dict[str, Any] = base.layers()
    for layer, delta in adapter.deltas.items():
        component, _, path = layer.partition(".")
        found = {k.removeprefix("text_model."): v for k, v in expected[component].items()}
        right = found[f"{path.removeprefix('text_model.')}.weight"]
        weight = layers[layer].weight
        assert torch.allclose(weight + delta.dense(weight), right, atol=1e-5), layer
    assert adapter.save(tmp_path / "one.safetensors")
    (tmp_path / "text_encoder" / "adapter_config.json").unlink()
    with pytest.raises(BadInput, match=r"text_encoder/adapter_model.* keep the two in one folder"):
        load_adapter(tmp_path)
