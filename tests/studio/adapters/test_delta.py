"""Each form of delta against a computation that shares nothing with it, and exact removal."""

import copy
import math
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.adapters.delta import Delta, Dense, Kron, Layer, LowRank, Sparse, attach, swap_weights
from studio.errors import BadInput


def linear() -> nn.Linear:
    return nn.Linear(12, 8)


def conv() -> nn.Conv2d:
    return nn.Conv2d(12, 8, 3, stride=2, padding=1)


def some_input(layer: Layer) -> Tensor:
    return torch.randn(2, 5, 12) if isinstance(layer, nn.Linear) else torch.randn(2, 12, 6, 6)


def through(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's output, had it this weight."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, layer.bias)
    return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)


def in_peft(layer: Layer, config: peft.LoraConfig) -> Any:
    """peft's own layer around this one (its classes carry no types)."""
    model = nn.ModuleDict({"layer": layer})
    peft.inject_adapter_in_model(config, model)
    return model["layer"]


def every_delta(layer: Layer) -> dict[str, Delta]:
    """One of every form and variant, each changing the layer noticeably."""
    out, inner, *kernel = layer.weight.shape
    numel = layer.weight.numel()
    down, up = torch.randn(3, inner, *kernel), torch.randn(out, 3, *(1 for _ in kernel))
    rows, columns = torch.rand(out) + 0.5, torch.rand(1, inner, *(1 for _ in kernel)) + 0.5
    a, b = torch.randn(2, 3), torch.randn(out // 2, inner // 3, *kernel)
    pair = torch.randn(out // 2, 2), torch.randn(2, inner // 3, *kernel)
    chosen = torch.randperm(numel)[: numel // 5]
    value = torch.randn(len(chosen)).half().float()  # as many bits as the file has
    full = torch.randn(layer.weight.shape)
    return {
        "low rank": LowRank(down, up, 6.0),
        "low rank, stabilised": LowRank(down, up, 6.0, rank_stabilised=True),
        "DoRA": LowRank(down, up, 6.0, magnitude=rows),
        "DoRA by column": LowRank(down, up, 6.0, magnitude=columns),
        "kron": Kron(a, b, scale=0.5),
        "kron of pairs": Kron((torch.randn(2, 1), torch.randn(1, 3)), pair),
        "kron, rows swapped": Kron(a, b, rows_swapped=True),
        "kron with DoRA": Kron(a, b, magnitude=rows),
        "sparse": Sparse(chosen.int(), value, tuple(layer.weight.shape)),
        "dense": Dense(full),
        "dense with DoRA": Dense(full, magnitude=rows),
    }


VARIANTS = list(every_delta(linear()))
LAYERS = {"linear": linear, "conv": conv}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
each_variant = pytest.mark.parametrize("variant", VARIANTS)


# What each form says of the weight.


@each_layer
@pytest.mark.parametrize("rank_stabilised", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_low_rank_is_what_peft_merges(layer, rank_stabilised: bool, dora: bool) -> None:
    base = layer()
    weight = base.weight.detach().clone()
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_rslora=rank_stabilised, use_dora=dora, target_modules=["layer"]
    )
    theirs = in_peft(base, config)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data = torch.rand_like(parameter) + 0.1
    ours = LowRank(
        theirs.lora_A["default"].weight.detach(),
        theirs.lora_B["default"].weight.detach(),
        6,
        rank_stabilised=rank_stabilised,
        magnitude=theirs.lora_magnitude_vector["default"].weight.detach().flatten()
        if dora
        else None,
    )
    x = some_input(layer())
    assert torch.allclose(ours(theirs.base_layer, x), theirs(x), atol=1e-5)
    theirs.merge()
    assert torch.allclose(weight + ours.dense(weight), theirs.base_layer.weight, atol=1e-5)


@each_layer
@pytest.mark.parametrize("dora", [False, True])
def test_low_rank_starts_as_peft_does_and_changes_nothing(layer, dora: bool) -> None:
    base = layer()
    config = peft.LoraConfig(r=4, lora_alpha=4, use_dora=dora, target_modules=["layer"])
    theirs = in_peft(copy.deepcopy(base), config).state_dict()
    generator = torch.Generator().manual_seed(5)
    ours = LowRank.start(base, 4, alpha=4, dora=dora, generator=generator)
    drawn = theirs["lora_A.default.weight"]
    assert ours.down.shape == drawn.shape and ours.up.shape == theirs["lora_B.default.weight"].shape
    bound = 1 / math.sqrt(drawn[0].numel())  # kaiming_uniform with a = sqrt(5)
    assert 0.9 * bound < ours.down.abs().max() <= bound and drawn.abs().max() <= bound
    if dora:
        assert torch.allclose(
            ours.tensors()["lora_magnitude_vector"],
            theirs["lora_magnitude_vector.default.weight"],
        )
    assert torch.allclose(ours.dense(base.weight), torch.zeros_like(base.weight), atol=1e-6)


def test_starts_depend_on_the_generator_only() -> None:
    starts = [
        LowRank.start(linear(), 4, alpha=4, generator=torch.Generator().manual_seed(seed)).down
        for seed in (1, 1, 2)
    ]
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_kron_is_torch_kron() -> None:
    a, b = torch.randn(4, 2), torch.randn(2, 6)
    weight = torch.randn(8, 12)
    assert torch.allclose(Kron(a, b, scale=0.5).dense(weight), 0.5 * torch.kron(a, b))


def test_kron_of_a_convolution_is_torch_kron_at_every_tap() -> None:
    a, b = torch.randn(4, 2), torch.randn(2, 6, 3, 3)
    change = Kron(a, b).dense(torch.randn(8, 12, 3, 3))
    for y in range(3):
        for x in range(3):
            assert torch.allclose(change[:, :, y, x], torch.kron(a, b[:, :, y, x]))


def test_kron_with_rows_swapped_is_the_layer_of_diffusekronas_authors() -> None:
    down, up = torch.randn(2, 4), torch.randn(2, 6)  # (a2, a1) and (b1, b2) of krona.py
    x = torch.randn(3, 5, 12)
    a2, a1, b1, b2 = *down.shape, *up.shape
    theirs = up @ (x.reshape(-1, a2, b2).transpose(1, 2) @ down)
    theirs = theirs.reshape(3, 5, a1 * b1)
    change = Kron(down.T, up, rows_swapped=True).dense(torch.zeros(8, 12))
    assert torch.allclose(F.linear(x, change), theirs, atol=1e-5)


def test_kron_starts_as_diffusekrona_and_refuses_what_does_not_divide() -> None:
    layer = nn.Linear(320, 320)
    start = Kron.start(layer, 64, 8, generator=torch.Generator().manual_seed(0))
    assert start.a.shape == (64, 8) and start.b.shape == (5, 40)
    assert sum(p.numel() for p in start.parameters()) == 64 * 8 + 5 * 40
    assert start.a.std().item() == pytest.approx(1 / 64, rel=0.15)
    assert not start.b.any() and not start.dense(layer.weight).any()
    with pytest.raises(BadInput, match="a1 must divide the outputs"):
        Kron.start(layer, 64, 7)


def test_sparse_changes_the_entries_it_names() -> None:
    weight = torch.randn(8, 12)
    change = Sparse(torch.tensor([0, 13, 95]), torch.tensor([1.0, -2.0, 3.0]), (8, 12))
    expected = torch.zeros(8, 12)
    expected[0, 0], expected[1, 1], expected[7, 11] = 1.0, -2.0, 3.0
    assert torch.equal(change.dense(weight), expected)


def test_sparse_entries_far_apart_and_near_survive_the_file() -> None:
    """Gaps of none, of 254 to 256 and of several times 255 entries, first and last ones too."""
    index = torch.tensor([0, 1, 256, 511, 767, 1024, 2044, 2045, 9999])
    value = torch.arange(1.0, 10.0)
    shuffled = torch.randperm(9)
    named = Sparse(index[shuffled], value[shuffled], (100, 100)).tensors()
    again = Sparse.from_tensors(named)
    assert torch.equal(again.index, index.int()) and torch.equal(again.value, value.half())
    expected = torch.zeros(10_000)
    expected[index] = value
    assert torch.equal(again.dense(torch.zeros(100, 100)).flatten(), expected)


def test_a_dense_choice_takes_three_bytes_an_entry() -> None:
    chosen = (torch.rand(200 * 500) < 0.06).nonzero().flatten()  # as 2e-3 does on SD 1.5
    named = Sparse(chosen.int(), torch.randn(len(chosen)), (200, 500)).tensors()
    assert sum(tensor.nbytes for tensor in named.values()) < 3.01 * len(chosen) + 16


@each_layer
def test_settled_entries_keep_their_value_and_get_no_gradient(layer) -> None:
    own = layer().requires_grad_(False)
    delta, x = every_delta(own)["sparse"], some_input(own)
    assert isinstance(delta, Sparse)
    expected, before = delta(own, x).detach(), delta.dense(own.weight).detach()
    parameter = delta.value
    delta(own, x).square().sum().backward()
    whole, marked = delta.value.grad, torch.rand(len(delta.index)) < 0.5
    assert whole is not None
    delta.settle(marked)
    assert delta.value is parameter and len(delta.value) == int(marked.sum())
    assert torch.allclose(delta(own, x), expected, atol=1e-5)
    assert torch.equal(delta.dense(own.weight), before)
    delta(own, x).square().sum().backward()
    assert delta.value.grad is not None
    assert torch.allclose(delta.value.grad, whole[marked], rtol=1e-4, atol=1e-4)
    again = Sparse.from_tensors(delta.tensors())
    assert torch.equal(again.dense(own.weight), before)
    fresh = every_delta(own)["sparse"]
    fresh.load_state_dict(delta.state_dict())
    assert torch.equal(fresh.dense(own.weight), before)
    assert fresh.value.shape == delta.value.shape


@pytest.mark.parametrize("axis", [0, 1])
def test_a_magnitude_sets_the_norm_of_rows_or_of_columns(axis: int) -> None:
    layer, magnitude = conv(), torch.rand(8 if axis == 0 else 12) + 0.5
    sides = [1, 12, 1, 1] if axis else [8]
    change = every_delta(layer)["low rank"]
    assert isinstance(change, LowRank)
    dora = LowRank(change.down, change.up, 6.0, magnitude=magnitude.view(sides))
    total = layer.weight + dora.dense(layer.weight)
    norms = torch.stack([row.norm() for row in total.unbind(axis)])
    assert torch.allclose(norms, magnitude, atol=1e-5)


# What each form does to a layer.


@each_layer
@each_variant
def test_the_output_is_that_of_the_changed_weight(layer, variant: str) -> None:
    own = layer()
    delta, x = every_delta(own)[variant], some_input(own)
    plain = own(x)
    expected = through(own, x, own.weight.detach() + delta.dense(own.weight).detach())
    with attach({"layer": own}, {"layer": delta}):
        assert torch.allclose(own(x), expected, atol=1e-4)
        assert not torch.allclose(own(x), plain, atol=1e-1)


@each_layer
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "DoRA"])
def test_gradients_are_those_of_the_changed_weight_and_reach_only_the_delta(
    layer, variant: str
) -> None:  # DoRA holds the norm constant: it is compared with peft below
    own = layer().requires_grad_(False)
    delta, x = every_delta(own)[variant], some_input(own).requires_grad_(True)
    learned = [x, *delta.parameters()]
    expected = through(own, x, own.weight + delta.dense(own.weight))
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, learned, direction)
    given = torch.autograd.grad(delta(own, x), learned, direction)
    for ours, theirs in zip(given, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    assert own.weight.grad is None


@each_layer
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_dora_learns_as_in_peft(layer, dropout: float) -> None:
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_dora=True, lora_dropout=dropout, target_modules=["layer"]
    )
    theirs = in_peft(layer(), config).train()
    theirs.lora_B["default"].weight.data.uniform_(-1, 1)
    ours = LowRank(
        theirs.lora_A["default"].weight.detach().clone(),
        theirs.lora_B["default"].weight.detach().clone(),
        6,
        magnitude=theirs.lora_magnitude_vector["default"].weight.detach().clone().flatten(),
        dropout=dropout,
    )
    x = some_input(theirs.base_layer)
    torch.manual_seed(1)
    theirs(x).square().sum().backward()
    torch.manual_seed(1)
    ours(theirs.base_layer, x).square().sum().backward()
    for own, other in (
        (ours.down, theirs.lora_A["default"].weight),
        (ours.up, theirs.lora_B["default"].weight),
        (ours.magnitude, theirs.lora_magnitude_vector["default"].weight),
    ):
        assert own is not None and own.grad is not None and other.grad is not None
        assert torch.allclose(own.grad.flatten(), other.grad.flatten(), rtol=1e-3, atol=1e-3)


def test_dropout_is_for_training_only() -> None:
    layer = linear()
    low = every_delta(layer)["low rank"]
    assert isinstance(low, LowRank)
    dropping, x = LowRank(low.down, low.up, 6.0, dropout=0.5), some_input(layer)
    assert not torch.allclose(dropping(layer, x), low(layer, x))
    assert torch.equal(dropping.eval()(layer, x), low(layer, x))


@each_layer
@each_variant
def test_half_precision_stays_half_precision(layer, variant: str) -> None:
    own = layer()
    delta, x = every_delta(own)[variant], some_input(own)
    expected = delta(own, x)
    half = copy.deepcopy(own).bfloat16()
    assert (output := delta(half, x.bfloat16())).dtype == torch.bfloat16
    assert torch.allclose(output.float(), expected, rtol=0.1, atol=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (output := delta(own, x)).dtype == torch.bfloat16
        assert torch.allclose(output.float(), expected, rtol=0.1, atol=0.5)


def test_sparse_keeps_no_copy_of_the_weight_for_the_backward_pass() -> None:
    layer = nn.Linear(64, 64).requires_grad_(False)
    delta = Sparse(torch.arange(10), torch.randn(10), (64, 64))
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        delta(layer, torch.randn(2, 64))
    assert kept and max(kept) < layer.weight.numel()


def test_low_rank_and_kron_form_no_dense_product() -> None:
    layer = nn.Linear(64, 64).requires_grad_(False)
    x = torch.randn(2, 64)
    for delta in (
        LowRank(torch.randn(4, 64), torch.randn(64, 4), 4),
        Kron(torch.randn(8, 8), torch.randn(8, 8)),
    ):
        with torch.profiler.profile(record_shapes=True) as seen:
            delta(layer, x)
        for event in seen.events() or []:
            assert event.name != "aten::kron"
            if event.name in ("aten::mm", "aten::bmm"):
                assert math.prod(event.input_shapes[0]) < 64 * 64


def test_a_convolution_of_one_tap_and_a_matrix_change_each_other() -> None:
    flat, tall = nn.Linear(12, 8), nn.Conv2d(12, 8, 1)
    down, up, x = torch.randn(3, 12), torch.randn(8, 3), torch.randn(2, 12, 4, 4)
    as_matrix = LowRank(down, up, 3.0)
    as_kernel = LowRank(down[..., None, None], up[..., None, None], 3.0)
    assert torch.equal(as_matrix(tall, x), as_kernel(tall, x))
    rows = torch.randn(2, 12)
    assert torch.equal(as_matrix(flat, rows), as_kernel(flat, rows))
    assert as_matrix.dense(tall.weight).shape == tall.weight.shape


# On and off.


@each_layer
@each_variant
def test_attach_and_detach_leave_the_base_as_it_was(layer, variant: str) -> None:
    own = layer()
    before = copy.deepcopy(own.state_dict())
    attributes, x = set(vars(own)), some_input(own)
    plain, storage = own(x), own.weight.data_ptr()
    with pytest.raises(ZeroDivisionError), attach({"a": own}, {"a": every_delta(own)[variant]}):
        own(x)
        raise ZeroDivisionError
    assert set(vars(own)) == attributes
    assert not own._forward_hooks and not own._forward_pre_hooks
    assert own.weight.data_ptr() == storage
    assert all(torch.equal(before[name], tensor) for name, tensor in own.state_dict().items())
    assert torch.equal(own(x), plain)


def test_a_layer_carries_one_delta_at_a_time() -> None:
    own = linear()
    low = {"a": every_delta(own)["low rank"]}
    with attach({"a": own}, low), pytest.raises(BadInput, match="another training"):
        attach({"a": own}, low).__enter__()
    assert "forward" not in vars(own)


def test_attached_deltas_are_no_parameters_of_the_base() -> None:
    own = linear()
    with attach({"a": own}, {"a": every_delta(own)["low rank"]}):
        assert len(list(own.parameters())) == 2


@pytest.mark.parametrize("put", [attach, swap_weights])
def test_a_name_that_is_no_layer_is_refused_by_name_before_anything_changes(put) -> None:
    own = linear()
    low = every_delta(own)["low rank"]
    values = {"a": low, "b": low} if put is attach else {"a": own.weight * 2, "b": own.weight}
    storage = own.weight.data_ptr()
    with pytest.raises(BadInput, match="no layer b"):
        put({"a": own}, values).__enter__()
    assert "forward" not in vars(own) and own.weight.data_ptr() == storage


def test_folded_weights_stand_in_and_the_same_storage_comes_back() -> None:
    layers: dict[str, Layer] = {"a": linear(), "b": conv()}
    before = {name: copy.deepcopy(layer.state_dict()) for name, layer in layers.items()}
    storages = {name: layer.weight.data_ptr() for name, layer in layers.items()}
    merged = {"a": torch.zeros(8, 12), "b": torch.ones(8, 12, 3, 3), "a.bias": torch.ones(8)}
    with pytest.raises(ZeroDivisionError), swap_weights(layers, merged):
        assert torch.equal(layers["a"](torch.randn(2, 12)), torch.ones(2, 8))
        raise ZeroDivisionError
    for name, layer in layers.items():
        assert layer.weight.data_ptr() == storages[name]
        assert all(torch.equal(before[name][k], v) for k, v in layer.state_dict().items())


def test_folded_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match=r"\(8, 12\), not \(12, 8\)"):
        swap_weights({"a": linear()}, {"a": torch.zeros(12, 8)}).__enter__()


# On disk.


@each_layer
@each_variant
def test_tensors_and_back(layer, variant: str) -> None:
    own = layer()
    delta = every_delta(own)[variant]
    kwargs = {}
    if isinstance(delta, LowRank):
        kwargs = {"alpha": delta.alpha, "rank_stabilised": delta.rank_stabilised}
    again = type(delta).from_tensors(delta.tensors(), **kwargs)
    assert torch.allclose(again.dense(own.weight), delta.dense(own.weight))
    assert again.shape == delta.shape == tuple(own.weight.shape)


def test_a_dense_change_of_the_bias() -> None:
    layer = linear()
    delta = Dense(torch.zeros(8, 12), torch.ones(8))
    x = some_input(layer)
    assert torch.allclose(delta(layer, x), layer(x) + 1)
    assert set(delta.tensors()) == {"diff", "diff_b"}
