"""How the trained numbers move: optimisers, LoRA+, the average, against their own packages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from torch import nn

import trainers
from studio import Base
from studio.errors import BadInput
from studio.requests.recipe import with_options
from tests.trainers.learning import NEAR, TRIGGER, assert_resumes, learned, lora_request
from tests.trainers.reference import peft_training, trained
from trainers import DiffuseKronA, Kind, LoRA, Recipe, SaRA
from trainers.engine.data.randomness import generator_for
from trainers.engine.ema import EMA
from trainers.engine.kind import new_deltas
from trainers.engine.optimizers import new_optimizer, parameter_groups, state_bytes

OPTIMIZERS = ["adamw", "prodigy", "lion", "adamw8bit"]


def installed(name: str) -> None:
    """Skip what needs an optimiser that is not installed; only bitsandbytes is not, it is large."""
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")


def prodigy(unet: nn.Module) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy

    decay: Any = 0.01
    return Prodigy(trained(unet), lr=1.0, weight_decay=decay, safeguard_warmup=True)


def lion(unet: nn.Module) -> torch.optim.Optimizer:
    from lion_pytorch import Lion

    return Lion(trained(unet), lr=1e-3, weight_decay=0.01)


def adamw8bit(unet: nn.Module) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

    return AdamW8bit(trained(unet), lr=1e-3, weight_decay=0.01)


def lora_plus(unet: nn.Module) -> torch.optim.Optimizer:
    return create_loraplus_optimizer(
        unet,  # pyright: ignore[reportArgumentType]
        torch.optim.AdamW,
        lr=1e-3,
        loraplus_lr_ratio=16,
        loraplus_weight_decay=0.01,
    )


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"optimizer": "prodigy", "lr": 1.0}, prodigy),
        ({"optimizer": "lion"}, lion),
        ({"optimizer": "adamw8bit"}, adamw8bit),
        ({"lora_plus": 16.0}, lora_plus),
        ({"ema": 0.7}, None),
    ],
    ids=lambda given: "" if callable(given) or not given else "-".join(given),
)
def test_training_equals_peft_with(
    sdxl64: Base,
    sdxl_folder: Path,
    folder: Path,
    tmp_path: Path,
    options: dict[str, object],
    theirs: Callable[[nn.Module], torch.optim.Optimizer] | None,
) -> None:
    """Six steps of the usual loop with that package's optimiser, or diffusers' average."""
    installed(str(options.get("optimizer")))
    # Tensors of fewer than 4096 numbers keep a state of 32 bits.
    kind = LoRA(rank=64 if options.get("optimizer") == "adamw8bit" else 4)
    given = {"steps": 6, "seed": 3, "schedule": "constant", **options}
    _, losses = learned(kind, sdxl64, folder, tmp_path / "run", **given)
    start = new_deltas(kind, sdxl64, generator=generator_for(3, "start"))
    own: dict[str, Any] = {"optimizer": theirs} if theirs else {"ema": 0.7}
    expected, weights = peft_training(sdxl_folder, folder, kind, start, steps=6, **own)
    assert losses == pytest.approx(expected, abs=1e-5)
    ours = load_file(tmp_path / "run" / "adapter.safetensors")
    for name, tensor in weights.items():
        near = {**NEAR, "atol": 1e-4} if "lora_plus" in options else NEAR  # sixteen times the rate
        torch.testing.assert_close(ours[f"unet.{name}"], tensor, **near)


@pytest.mark.parametrize("kind", [LoRA(rank=4), DiffuseKronA(a1=8)])
def test_lora_plus_moves_what_starts_at_zero_by_its_ratio(
    sdxl: Base, folder: Path, tmp_path: Path, kind: Kind
) -> None:
    """Adam's first step is the learning rate itself, however long the gradient: 16e-3."""
    options = {"lora_plus": 16.0, "lr": 1e-3, "weight_decay": 0.0, "steps": 1}
    adapter, _ = learned(kind, sdxl, folder, tmp_path / "run", schedule="constant", **options)
    start = new_deltas(kind, sdxl, generator=generator_for(0, "start"))
    for layer, delta in adapter.deltas.items():
        first, late = delta.parameters()
        assert late.abs().max().item() == pytest.approx(16e-3, rel=0.02)
        assert torch.equal(first, next(start[layer].parameters()))  # its gradient is zero at first


def test_what_does_not_suit_is_refused(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="trains no factors: leave it out"):
        learned(SaRA(threshold=0.01), sdxl, folder, tmp_path / "run", lora_plus=16.0)
    with pytest.raises(BadInput, match="prodigy finds one rate for all"):
        with_options(Recipe(), {"optimizer": "prodigy", "lora_plus": 2.0})
    with pytest.raises(BadInput, match="text_lr is not lr, and prodigy"):
        Recipe(optimizer="prodigy", lr=1.0, text_encoders=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [("prodigy", "prodigyopt"), ("lion", "lion-pytorch"), ("adamw8bit", "bitsandbytes")],
)
def test_an_optimizer_that_is_not_installed_is_refused_with_its_line(
    sdxl: Base, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str
) -> None:
    monkeypatch.setattr("trainers.engine.optimizers.find_spec", lambda module: None)
    with pytest.raises(BadInput, match=f"not installed: run `pip install {line}`"):
        trainers.check(lora_request(folder, optimizer=name))
    with pytest.raises(BadInput, match="not installed"):
        trainers.train(LoRA(), sdxl, folder, trigger=TRIGGER, optimizer=name)


def test_learning_rates_suit_their_optimizer_unless_given() -> None:
    base = Recipe(lr=2e-3)
    assert with_options(base, {"optimizer": "prodigy"}).lr == 1.0
    assert with_options(base, {"optimizer": "lion"}).lr == pytest.approx(2e-3 / 3)
    assert with_options(base, {"optimizer": "adamw8bit"}).lr == 2e-3
    asked = with_options(base, {"optimizer": "prodigy", "lr": 0.5})
    assert asked.lr == 0.5
    assert "its authors leave lr at 1" in asked.remarks()[0]
    assert with_options(base, {"optimizer": "prodigy"}).remarks() == ()
    text = with_options(base, {"optimizer": "prodigy", "lr": 0.5, "text_encoders": True})
    assert text.text_lr == 0.5
    lion = with_options(base, {"optimizer": "lion"})
    assert lion.text_lr == pytest.approx(Recipe().text_lr / 3)
    assert with_options(lion, {"optimizer": "adamw"}).lr == pytest.approx(2e-3)
    assert with_options(lion, {"optimizer": "lion"}).lr == lion.lr
    with pytest.raises(BadInput, match="is prodigy's, 1: give lr for adamw"):
        with_options(with_options(base, {"optimizer": "prodigy"}), {"optimizer": "adamw"})
    with pytest.raises(BadInput, match=r"text_lr is prodigy's, 0\.5: give text_lr for adamw"):
        with_options(text, {"optimizer": "adamw", "lr": 1e-4})
    assert with_options(text, {"optimizer": "adamw", "lr": 1e-4, "text_lr": 1e-5}).text_lr == 1e-5


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LoRA(rank=4), {"optimizer": "prodigy", "ema": 0.9}),
        (LoRA(rank=4, dora=True), {"optimizer": "lion", "lora_plus": 4.0}),
        (LoRA(rank=64), {"optimizer": "adamw8bit"}),
        (SaRA(threshold=0.02, adjust_at=0.3), {"optimizer": "prodigy", "ema": 0.9}),
    ],
)
def test_a_resumed_run_ends_in_the_same_bytes_with(
    sdxl: Base, folder: Path, tmp_path: Path, kind: Kind, options: dict[str, object]
) -> None:
    installed(str(options.get("optimizer")))
    rate = {} if "optimizer" not in options else {"lr": 1.0 if "prod" in str(options) else 1e-3}
    assert_resumes(kind, sdxl, folder, tmp_path, **{**options, **rate})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_bytes_of_its_state_are_foretold(name: str) -> None:
    installed(name)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((96, 96), (64, 16), (640,))]
    parameters.append(nn.Parameter(torch.zeros(200, 100)))
    told = state_bytes(name, parameters)
    recipe = Recipe(optimizer=name)  # pyright: ignore[reportArgumentType]
    optimizer = new_optimizer([{"params": parameters, "share": 1.0}], recipe)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [
        value.nbytes
        for slots in optimizer.state.values()
        for key, value in slots.items()
        if torch.is_tensor(value) and not key.startswith("qmap")  # which all of them share
    ]
    assert told == pytest.approx(sum(kept), abs=4 * len(parameters))  # the step counters


def test_sara_goes_on_averaging_the_entries_that_settle(sdxl: Base) -> None:
    """By hand, on the whole matrix: every entry is averaged, also after it has settled."""
    name, layer = next((n, one) for n, one in sdxl.layers().items() if n.endswith("to_q"))
    delta = SaRA(threshold=0.05).delta(name, layer, generator=torch.Generator())
    assert delta is not None
    average, weight = EMA({name: delta}, 0.9), torch.zeros(delta.shape)
    expected = torch.zeros(delta.shape)
    generator = torch.Generator().manual_seed(0)
    for done in range(1, 7):
        if done == 4:
            delta.settle(torch.rand(len(delta.index), generator=generator) < 0.5)
            average.realign()
        delta.value.data += torch.randn(len(delta.index), generator=generator)
        average.update(done)
        decay = 0.0 if done == 1 else min(0.9, done / (9 + done))
        expected = decay * expected + (1 - decay) * delta.dense(weight).detach()
        torch.testing.assert_close(average.deltas({name: delta})[name].dense(weight), expected)


def test_groups_hold_every_parameter_once(sdxl: Base) -> None:
    deltas = new_deltas(LoRA(rank=2, dora=True), sdxl, generator=torch.Generator())
    everything = [p for delta in deltas.values() for p in delta.parameters()]
    plain = parameter_groups(deltas, Recipe())
    assert [list(map(id, group["params"])) for group in plain] == [list(map(id, everything))]
    one, other = parameter_groups(deltas, Recipe(lora_plus=16.0))
    assert len(one["params"]) + len(other["params"]) == len(everything)
    assert {id(p) for p in other["params"]} == {id(delta.up) for delta in deltas.values()}
    assert (one["share"], other["share"]) == (1.0, 16.0)
