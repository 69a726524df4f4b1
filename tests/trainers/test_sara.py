"""SaRA against a dense gradient and a dense count, in Studio's loop and in anybody's own."""

import copy
import json
from math import exp, nan
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

import trainers
from studio.adapters.adapter import Adapter
from studio.adapters.compatibility import check_fits
from studio.adapters.delta import Delta, Sparse, attach
from studio.adapters.describe import describe
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.real_config import real_config
from studio.errors import BadInput
from tests.tiny import tiny_sdxl
from tests.trainers.learning import assert_lent, assert_resumes, learned
from trainers import SaRA
from trainers.engine.kind import new_deltas

THETA = 0.01


def started(kind: SaRA, base: Base) -> dict[str, Sparse]:
    return new_deltas(kind, base, generator=torch.Generator())  # pyright: ignore


def unet_weights(base: Base) -> dict[str, Tensor]:
    """Every weight that may be chosen, without asking Base.layers."""
    kinds = nn.Linear | nn.Conv2d
    return {
        f"unet.{path}": layer.weight.detach()
        for path, layer in base.unet.named_modules()
        if isinstance(layer, kinds)
    }


def predicted(base: Base) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    text = base.encode_text(["a sks robot"])
    return base.predict(torch.randn(1, 4, 8, 8, generator=draw), 500, text)


def noisy_batch(unet: UNet2DConditionModel) -> Tensor:
    """One prediction of a bare UNet of the SD 1 layout."""
    draw = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 8, 8, generator=draw).to(unet.dtype)
    hidden = torch.randn(1, 5, unet.config["cross_attention_dim"], generator=draw)
    return unet(latents, 300, encoder_hidden_states=hidden.to(unet.dtype)).sample


# Which entries.


def test_the_entries_below_the_threshold_are_chosen(sdxl: Base) -> None:
    deltas, weights = started(SaRA(threshold=THETA), sdxl), unet_weights(sdxl)
    assert {name for name, w in weights.items() if (w.abs() < THETA).any()} == set(deltas)
    for name, delta in deltas.items():
        chosen = torch.zeros(weights[name].shape, dtype=torch.bool)
        chosen.view(-1)[delta.index.long()] = True
        assert torch.equal(chosen, weights[name].abs() < THETA)
        assert delta.index.dtype == torch.int32
        assert not delta.dense(weights[name]).any()


@pytest.mark.parametrize("budget", [1, 1000, 50_000])
def test_a_budget_takes_the_smallest_weights_of_all(sdxl: Base, budget: int) -> None:
    kind = SaRA(budget=budget).for_base(sdxl)
    assert isinstance(kind, SaRA)
    everything = torch.cat([w.flatten().abs() for w in unet_weights(sdxl).values()])
    assert kind.threshold == everything.sort().values[budget].item()
    chosen = sum(len(delta.index) for delta in started(kind, sdxl).values())
    assert chosen == budget == int((everything < kind.threshold).sum())


def test_the_learning_rate_is_that_of_the_budgets_threshold(sdxl: Base) -> None:
    kind = SaRA(budget=1000)
    threshold = kind.for_base(sdxl).threshold
    assert threshold and threshold < 1e-3
    assert kind.published(sdxl)["lr"] == 1e-3 * exp(-350 * threshold)
    assert kind.published(real_config("sdxl"))["lr"] == SaRA().published(sdxl)["lr"]


def test_a_budget_beyond_the_base_is_refused(sdxl: Base) -> None:
    total = sum(w.numel() for w in unet_weights(sdxl).values())
    with pytest.raises(BadInput, match=f"has only {total:,} weights"):
        SaRA(budget=total).for_base(sdxl)


def test_a_budget_that_zeros_alone_would_fill_is_refused(sdxl: Base) -> None:
    weight = sdxl.unet.conv_in.weight  # pyright: ignore
    before = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[:7] = 0
    try:
        with pytest.raises(BadInput, match=r"budget is 6, but 7 .* are zero.*give more"):
            SaRA(budget=6).for_base(sdxl)
        kind = SaRA(budget=7).for_base(sdxl)  # all seven, and no other
        assert isinstance(kind, SaRA)
        assert sum(len(delta.index) for delta in started(kind, sdxl).values()) == 7
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_the_histogram_counts_the_magnitudes(sdxl: Base) -> None:
    facts = SaRA().facts(sdxl)
    everything = torch.cat([w.flatten().abs() for w in unet_weights(sdxl).values()])
    for edge in (1e-3, 2e-2, 1e-1):
        below = int((everything < edge).sum())
        assert facts[f"below {edge:g}"] == f"{below:,} ({below / len(everything):.2%})"


def test_a_configuration_without_weights_cannot_be_counted() -> None:
    with pytest.raises(BadInput, match="configuration without weights"):
        SaRA().for_base(real_config("sd15"))


# Gradients, and what the optimiser keeps.


def test_the_gradient_is_the_dense_one_at_the_chosen_entries(sdxl: Base) -> None:
    deltas = started(SaRA(threshold=THETA), sdxl)
    with attach(sdxl.layers(), deltas):
        predicted(sdxl).square().mean().backward()
    plain, sdxl.unet = sdxl.unet, copy.deepcopy(sdxl.unet).requires_grad_(True)
    try:
        predicted(sdxl).square().mean().backward()
        dense = {f"unet.{name}": p.grad for name, p in sdxl.unet.named_parameters()}
    finally:
        sdxl.unet = plain
    assert any(delta.value.grad.abs().max() > 1e-3 for delta in deltas.values())  # pyright: ignore
    for name, delta in deltas.items():
        wanted = dense[f"{name}.weight"]
        assert wanted is not None and delta.value.grad is not None
        torch.testing.assert_close(
            delta.value.grad, wanted.flatten()[delta.index.long()], atol=1e-6, rtol=1e-5
        )


def test_no_gradient_of_a_whole_layer_outlives_its_backward(sdxl: Base) -> None:
    """Neither on the base nor on a delta is anything as large as a layer left behind."""
    deltas = started(SaRA(threshold=1e-3), sdxl)
    base = sdxl.unet.requires_grad_(False)
    with attach(sdxl.layers(), deltas):
        predicted(sdxl).square().mean().backward()
    assert all(weight.grad is None for weight in base.parameters())
    held = sum(d.value.grad.nbytes for d in deltas.values() if d.value.grad is not None)
    assert held == 4 * sum(len(delta.index) for delta in deltas.values())


@pytest.mark.parametrize("budget", [2_000, 20_000])
def test_optimiser_state_is_proportional_to_the_chosen_entries(
    sdxl: Base, folder: Path, tmp_path: Path, budget: int
) -> None:
    """Measured in bytes: two float32 an entry, and a counter a layer."""
    kind = SaRA(budget=budget, adjust_at=0)
    learned(kind, sdxl, folder, tmp_path / "run", steps=2, save_every=1)
    state = load_file(tmp_path / "run" / "checkpoints" / "step-000001" / "state.safetensors")
    kept = {name: tensor for name, tensor in state.items() if name.startswith("optimizer/")}
    counters = sum(tensor.nbytes for name, tensor in kept.items() if name.endswith("/step"))
    assert counters == 4 * len(kept) // 3
    assert sum(tensor.nbytes for tensor in kept.values()) == 2 * 4 * budget + counters


# Low rank.


@pytest.mark.parametrize("rank_of", ["weights", "change"])
def test_the_penalty_is_the_nuclear_norm_of_the_trained_entries(rank_of: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 80).requires_grad_(False)
    kind = SaRA(threshold=0.05, rank_weight=0.1, rank_of=rank_of)  # pyright: ignore
    delta = kind.delta("unet.x", layer, generator=torch.Generator())
    assert delta is not None
    delta.value.data.normal_()
    given = kind.penalty({"x": layer}, {"x": delta}, generator=torch.Generator())
    assert given is not None
    given.backward()
    # Independently: a dense leaf, masked; the norm as the trace of its polar factor's product.
    mask = layer.weight.abs() < 0.05
    start = layer.weight if rank_of == "weights" else torch.zeros(80, 48)
    leaf = (start + delta.dense(layer.weight)).detach().double().requires_grad_(True)
    values, vectors = torch.linalg.eigh((leaf * mask).T @ (leaf * mask))
    norm = values.clamp_min(0).sqrt().sum()
    torch.testing.assert_close(given.double(), 0.1 * norm, rtol=1e-4, atol=0)
    polar = (leaf * mask) @ (vectors / values.sqrt()) @ vectors.T
    assert delta.value.grad is not None
    torch.testing.assert_close(
        delta.value.grad.double(), 0.1 * polar[mask].detach(), rtol=1e-3, atol=1e-6
    )


def test_the_penalty_draws_one_matrix_that_is_not_narrow() -> None:
    layers = {"wide": nn.Linear(64, 64), "narrow": nn.Linear(64, 32), "conv": nn.Conv2d(64, 64, 3)}
    kind = SaRA(threshold=1.0)
    deltas = {
        name: delta
        for name, layer in layers.items()
        if (delta := kind.delta(f"unet.{name}", layer, generator=torch.Generator()))
    }
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        penalty = kind.penalty(layers, deltas, generator=draw)
        assert penalty is not None
        penalty.backward()
    assert deltas["wide"].value.grad is not None
    assert deltas["narrow"].value.grad is None and deltas["conv"].value.grad is None
    rest = {name: deltas[name] for name in ("narrow", "conv")}
    assert kind.penalty(layers, rest, generator=torch.Generator()) is None
    assert SaRA(rank_weight=0).penalty(layers, deltas, generator=torch.Generator()) is None
    change = SaRA(threshold=1.0, rank_of="change")
    assert change.penalty(layers, deltas, generator=torch.Generator()) is None  # nothing yet


def test_the_penalty_moves_one_matrix_of_a_step(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    """A heavy one decides AdamW's first step alone: against the sign of the polar factor."""
    plain, heavy = (
        learned(
            SaRA(threshold=THETA, rank_weight=weight, adjust_at=0),
            sdxl,
            folder,
            tmp_path / f"{weight}",
            steps=1,
            clip=0,
        )
        for weight in (0.0, 1e4)
    )
    assert plain[1] == heavy[1]  # the loss that is told is that of the pictures
    changes = {name: delta.dense(w).detach() for name, delta, w in _pairs(sdxl, heavy[0])}
    before = {name: delta.dense(w).detach() for name, delta, w in _pairs(sdxl, plain[0])}
    (drawn,) = [name for name in changes if not torch.equal(changes[name], before[name])]
    weight = unet_weights(sdxl)[drawn]
    mask = weight.abs() < THETA
    left, _, right = torch.linalg.svd(weight * mask, full_matrices=False)
    expected = -1e-3 * (left @ right).sign()[mask]
    close = torch.isclose(changes[drawn][mask], expected, rtol=0.01)
    assert close.float().mean() > 0.95  # but for entries where the polar factor is all but zero


def _pairs(base: Base, adapter: Adapter) -> list[tuple[str, Delta, Tensor]]:
    weights = unet_weights(base)
    return [(name, delta, weights[name]) for name, delta in adapter.deltas.items()]


# Progressive adjustment.


def test_after_the_first_part_only_what_is_still_small_goes_on(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    kind = SaRA(threshold=THETA, adjust_at=0.5)
    learned(kind, sdxl, folder, tmp_path / "run", save_every=1, lr=3e-3)
    states = [
        load_file(tmp_path / "run" / "checkpoints" / f"step-00000{step}" / "state.safetensors")
        for step in (3, 4)
    ]
    plain = json.loads((tmp_path / "run/checkpoints/step-000004/state.json").read_text())
    before, after = states
    weights, settled = unet_weights(sdxl), 0
    for name, weight in weights.items():
        prefix = f"parameter/{name}/"
        if f"{prefix}value" not in before:
            continue
        index, value = before[f"{prefix}index"].long(), before[f"{prefix}value"]
        still = (weight.flatten()[index] + value).abs() < THETA
        assert torch.equal(after[f"{prefix}index"].long(), index[still])
        assert torch.equal(after[f"{prefix}settled_index"].long(), index[~still])
        assert torch.equal(after[f"{prefix}settled_value"], value[~still])
        if still.any():
            assert not torch.equal(after[f"{prefix}value"], value[still])
        settled += int((~still).sum())
    assert settled > 100
    steps = [tensor for name, tensor in after.items() if name.endswith("/step")]
    assert {float(one) for one in steps} == {1.0}  # the optimiser began afresh
    assert plain["step"] == 4
    kept = load_adapter(tmp_path / "run" / "adapter.safetensors")
    chosen = sum(len(delta.index) for delta in started(kind, sdxl).values())
    assert sum(len(d.index) for d in kept.deltas.values()) == chosen  # pyright: ignore


@pytest.mark.parametrize("after", [2, 3, 4])
def test_it_resumes_to_the_same_bytes(sdxl: Base, folder: Path, tmp_path: Path, after: int) -> None:
    """Before, at and after the step at which the entries are chosen again."""
    kind = SaRA(budget=5000, rank_weight=1e-2)
    assert_resumes(kind, sdxl, folder, tmp_path, after=after, lr=3e-3)


# The loop and the file.


def test_all_but_the_chosen_entries_stay_bit_identical(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    with assert_lent(sdxl):
        adapter, _ = learned(SaRA(threshold=THETA), sdxl, folder, tmp_path / "run")
    assert adapter.kind == "sara"
    for name, weight in unet_weights(sdxl).items():
        if name in adapter.deltas:
            changed = weight + adapter.deltas[name].dense(weight).detach()
            large = weight.abs() >= THETA
            assert torch.equal(changed[large], weight[large])
            assert not torch.equal(changed, weight)


def test_the_file_holds_half_precision_values_and_bytes_of_gaps(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    adapter, _ = learned(SaRA(threshold=THETA), sdxl, folder, tmp_path / "run")
    path = tmp_path / "run" / "adapter.safetensors"
    tensors = load_file(path)
    chosen = sum(len(delta.index) for delta in started(SaRA(threshold=THETA), sdxl).values())
    of = {"sparse_gaps": torch.uint8, "sparse_value": torch.float16, "sparse_shape": torch.int64}
    assert all(of[name.rpartition(".")[2]] == tensor.dtype for name, tensor in tensors.items())
    values = sum(t.numel() for name, t in tensors.items() if name.endswith("sparse_value"))
    assert values == chosen == describe(path)["parameters"]
    loaded = load_adapter(path, base=sdxl)
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    for name, delta in adapter.deltas.items():
        weight = sdxl.layers()[name].weight
        halved = delta.dense(weight).detach().half().float()
        assert torch.equal(loaded.deltas[name].dense(weight), halved)


def test_another_base_is_refused(
    sdxl: Base, folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    learned(SaRA(budget=100), sdxl, folder, tmp_path / "run", steps=1)
    other = load_base(
        tiny_sdxl(tmp_path_factory.mktemp("models") / "other", seed=1, layers=1), device="cpu"
    )
    with pytest.raises(BadInput, match=r"changes single weights of .* open that base"):
        load_adapter(tmp_path / "run" / "adapter.safetensors", base=other)
    low = Adapter(
        deltas=new_deltas(trainers.LoRA(rank=1), sdxl, generator=torch.Generator()),
        kind="lora",
        family="sdxl",
        fingerprint=sdxl.fingerprint(),
    )
    assert check_fits(low, other).missing == ()  # a LoRA may go where it likes


def test_half_precision_trains(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    kind = SaRA(threshold=THETA)
    _, half = learned(kind, sdxl, folder, tmp_path / "half", precision="bf16")
    _, full = learned(kind, sdxl, folder, tmp_path / "full")
    assert half == pytest.approx(full, rel=0.05)


# Anybody's own loop.


def test_one_line_trains_the_chosen_entries_of_anybodys_unet(sd1: Base) -> None:
    """Three steps against a dense AdamW whose gradients are masked by hand."""
    # In float64: in float32 the sign of the smallest gradients is the processor's.
    ours, theirs = copy.deepcopy(sd1.unet).double(), copy.deepcopy(sd1.unet).double()
    theirs.requires_grad_(True)
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    optimizer = SaRA(threshold=THETA).optimizer(ours, lr=1e-2, weight_decay=0.0)

    layers = {
        f"{path}.weight"
        for path, layer in theirs.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    dense = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        noisy_batch(ours).square().mean().backward()
        assert all(p.grad is None for p in ours.parameters())
        optimizer.step()
        optimizer.zero_grad()

        noisy_batch(theirs).square().mean().backward()
        for name, p in theirs.named_parameters():
            assert p.grad is not None
            p.grad *= (before[name].abs() < THETA) if name in layers else 0
        dense.step()
        dense.zero_grad()

    changed = 0
    for name, p in ours.named_parameters():
        small = (before[name].abs() < THETA) & torch.tensor(name in layers)
        assert torch.equal(p[~small], before[name][~small]), name
        changed += int((p != before[name]).sum())
        torch.testing.assert_close(p, theirs.get_parameter(name), atol=1e-4, rtol=0)
    assert changed > 1000
    state = sum(t.nbytes for slots in optimizer.state.values() for t in slots.values())
    entries = sum(len(p) for p in optimizer.param_groups[0]["params"])
    assert state == 8 * entries + 4 * len(optimizer.param_groups[0]["params"])


def test_such_a_training_goes_on_from_its_state_exactly(sd1: Base, tmp_path: Path) -> None:
    def learn(unet: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            noisy_batch(unet).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, before, after = (copy.deepcopy(sd1.unet) for _ in range(3))
    learn(whole, SaRA(budget=500).optimizer(whole, lr=1e-2), 4)
    first = SaRA(budget=500).optimizer(before, lr=1e-2)
    learn(before, first, 2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = SaRA(budget=500).optimizer(after, lr=1e-2)
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    learn(after, second, 2)
    for name, p in whole.named_parameters():
        assert torch.equal(p, after.get_parameter(name)), name
    with pytest.raises(BadInput, match="an optimizer over other weights"):
        SaRA(budget=400).optimizer(copy.deepcopy(sd1.unet)).load_state_dict(first.state_dict())


def test_what_it_trained_can_be_saved_as_an_adapter(sd1: Base, tmp_path: Path) -> None:
    unet = copy.deepcopy(sd1.unet)
    optimizer = SaRA(budget=500).optimizer(unet)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3, rel=0.1)
    assert sum(len(p) for p in optimizer.param_groups[0]["params"]) == 500
    for _ in range(2):
        noisy_batch(unet).square().mean().backward()
    optimizer.step()
    saved = Adapter(
        deltas=optimizer.deltas(), kind="sara", family="sd1", fingerprint=sd1.fingerprint()
    )
    loaded = load_adapter(saved.save(tmp_path / "a.safetensors"), base=sd1)
    with torch.no_grad(), attach(sd1.layers(), loaded.deltas):
        beside = noisy_batch(sd1.unet)
    torch.testing.assert_close(beside, noisy_batch(unet), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(beside, noisy_batch(sd1.unet), atol=1e-4)


# What is refused.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": nan}, "threshold must be a number above 0"),
        ({"rank_weight": nan}, "rank_weight"),
        ({"budget": 0}, "budget"),
        ({"rank_weight": -1.0}, "rank_weight"),
        ({"rank_of": "all"}, "rank_of"),
        ({"adjust_at": 1.0}, "adjust_at"),
    ],
)
def test_a_field_out_of_range_is_named(options: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SaRA(**options)


def test_a_threshold_below_every_weight_finds_nothing(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="sara found no layer"):
        learned(SaRA(threshold=1e-30), sdxl, folder, tmp_path / "run")


def test_an_optimizer_of_no_weight_is_refused(sdxl: Base) -> None:
    with pytest.raises(BadInput, match="none of the model's weights is below 1e-30"):
        SaRA(threshold=1e-30).optimizer(copy.deepcopy(sdxl.unet))
