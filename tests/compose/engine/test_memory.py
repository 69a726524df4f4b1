"""How much of a GPU's memory mixes take, and what is given up where it runs out."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compose import CMLoRA, Composite, KLoRA, Merge, Method, Switch, render
from compose.engine.evaluate import _prepare_blocks
from compose.engine.gpu.memory import room_for_weights
from compose.engine.picture_run import PictureRun
from compose.engine.weights.render_cache import RenderCache, cache_of
from studio.adapters.adapter import Adapter
from studio.adapters.delta import Kron, LowRank
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.real_config import real_config
from studio.requests.resolved_shot import resolve
from studio.requests.shot import Shot
from tests.compose.conftest import bits, same_bits

GB = 1e9
METHODS: list[tuple[Method, int]] = [
    (Merge(), 2),
    (Switch(interval=1), 2),
    (KLoRA(), 2),
    (Composite(), 2),
    (CMLoRA(), 3),
]
# Of SDXL's attention in fp16, factors of rank 16 in float32, and a pass at 1024 px as measured.
CHANGED, FACTORS, UNET_PASS = 1.91 * GB, 4 * 23_224_320, 0.5 * GB
SETS: list[tuple[Method, int]] = [
    (Merge(), 1),
    (Switch(interval=1), 2),
    (KLoRA(), 2),
    (Composite(), 2),
    (CMLoRA(), 3),
]


def shape_of(layer: nn.Module) -> tuple[int, int]:
    assert isinstance(layer, nn.Linear)
    return layer.out_features, layer.in_features


def adapter(base: Base, seed: int, *, kron: bool = False) -> Adapter:
    """A change of every attention, and of its norms' biases by nothing."""
    draw = torch.Generator().manual_seed(seed)
    deltas: dict[str, LowRank | Kron] = {}
    for name, layer in base.layers().items():
        if name.startswith("unet.") and ".attn" in name:
            out, inner = shape_of(layer)
            if kron:
                shape = (out // 4, inner // 4)
                deltas[name] = Kron(torch.rand(4, 4, generator=draw), torch.ones(shape) / 50)
                continue
            down, up = (torch.randn(4, n, generator=draw) * 0.1 for n in (inner, out))
            deltas[name] = LowRank(down, up.T, alpha=4)
    return Adapter(deltas=dict(deltas), kind="lora", family=base.family, name=str(seed))


def shot(base: Base, method: Method, count: int, *, kron: bool = False) -> Shot:
    pairs = tuple((adapter(base, seed, kron=kron), 0.8) for seed in range(count))
    return Shot("a robot", steps=3, adapters=pairs, method=method)


@pytest.fixture
def base(sdxl_folder: object) -> Base:
    """One that nobody else has, to be limited."""
    return load_base(str(sdxl_folder), device="cpu")


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """The CPU passes for a device with a memory of its own, of which so many bytes are free."""
    free = [10**12]
    for module in ("compose.engine.gpu.memory", "studio.bases.base"):
        monkeypatch.setattr(f"{module}.has_own_memory", lambda device: True)
    monkeypatch.setattr("compose.engine.gpu.memory.free_on_gpu", lambda device: free[0])

    def be(left: int) -> None:
        free[0] = left

    yield be


@pytest.mark.parametrize(("method", "count"), METHODS, ids=lambda one: str(one)[:9])
@pytest.mark.parametrize("kron", [False, True])
def test_without_room_the_picture_is_the_same(
    method: Method, count: int, kron: bool, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = shot(base, method, count, kron=kron)
    before = bits(base)
    expected = render(base, wanted, output="latents")
    weights = cache_of(base).kept.nbytes
    whole = not isinstance(method, Composite | CMLoRA) or kron
    for share in (0.5, 0):
        monkeypatch.setattr(
            "compose.engine.denoise.room_for_weights",
            lambda *_, share=share, **__: int(share * weights),
        )
        cache = cache_of(base)
        assert torch.equal(render(base, wanted, output="latents"), expected)
        assert cache.kept.nbytes <= share * weights
        assert (cache.kept.refused > 0) is (weights > 0 and whole) or not whole
        assert same_bits(base, before)
    monkeypatch.undo()
    render(base, wanted, output="latents")
    assert cache_of(base).kept.nbytes <= weights


def test_what_was_refused_is_kept_as_soon_as_there_is_room(base: Base) -> None:
    wanted, cache = shot(base, Merge(), 2), cache_of(base)
    render(base, wanted, output="latents")
    weights = cache.kept.nbytes
    assert cache.kept.limit(weights // 2)  # what is there is too much
    cache.prepared.clear()
    render_within(base, wanted, weights // 2)
    assert 0 < cache.kept.nbytes <= weights // 2
    assert cache.kept.refused == weights - cache.kept.nbytes
    render_within(base, wanted, weights // 2)
    assert 0 < cache.kept.nbytes <= weights // 2
    render_within(base, wanted, 2 * weights)
    assert cache.kept.nbytes == weights


def render_within(base: Base, wanted: Shot, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compose.engine.denoise.room_for_weights", lambda *_, **__: most)
        render(base, wanted, output="latents")


def test_low_memory_keeps_nothing_and_draws_the_same(sdxl_folder: object, base: Base) -> None:
    low = load_base(str(sdxl_folder), device="cpu", low_memory=True)
    for method, count in METHODS[1:3]:
        wanted = shot(base, method, count)
        expected = render(base, wanted, output="latents")
        assert torch.equal(render(low, wanted, output="latents"), expected)
        assert cache_of(low).kept.nbytes == 0
    assert low.vae.use_tiling and low.vae.use_slicing


def test_memory_that_runs_out_is_given_up_way_by_way(
    base: Base,
    like_a_gpu: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = shot(base, Merge(), 2)
    expected = render(base, wanted, output="latents")
    failures, really = [4], base.predict

    def predict(*args: object, **named: object) -> Tensor:
        failures[0] -= 1
        if failures[0] in (0, 1, 2):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return really(*args, **named)  # pyright: ignore

    monkeypatch.setattr(base, "predict", predict)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(render(base, wanted, output="latents"), expected)
    assert base.set_aside == base.text_encoders
    assert cache_of(base).kept.nbytes == 0 and cache_of(base).kept.lean
    ways = [record.getMessage() for record in caplog.records if "ran out" in record.getMessage()]
    assert len(ways) == 3 and "text encoders" in ways[1]
    # Later pictures of this size do not try again.
    assert torch.equal(render(base, wanted, output="latents"), expected)
    failures[0] = 3
    with pytest.raises(torch.OutOfMemoryError):
        render(base, wanted, output="latents")


def test_a_vae_that_runs_out_of_memory_goes_on_alone_and_then_in_tiles(
    base: Base, like_a_gpu: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = base.decode(latents)
    failures, really = [2], base.vae.decode

    def decode(*args: object, **named: object) -> object:
        failures[0] -= 1
        if failures[0] >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return really(*args, **named)  # pyright: ignore

    monkeypatch.setattr(base.vae, "decode", decode)
    with pytest.raises(torch.OutOfMemoryError):
        base.decode(latents, alone=False)  # the UNet is at work: it can't leave
    failures[0] = 1
    assert torch.equal(base.decode(latents), expected)
    assert not base.vae.use_tiling
    failures[0] = 1
    assert base.decode(latents).shape == expected.shape
    assert base.vae.use_tiling and base.vae.tile_sample_min_size == 512
    failures[0] = 9
    with pytest.raises(torch.OutOfMemoryError):
        base.decode(latents)
    assert base.vae.tile_sample_min_size == 128


@pytest.fixture(scope="module")
def sdxl_shape() -> tuple[Base, list[Adapter]]:
    """SDXL without storage, and LoRAs of rank 16 of its 560 layers of attention."""
    base = real_config("sdxl", dtype="fp16")
    base.time_ids = lambda **_: None  # pyright: ignore[reportAttributeAccessIssue]
    names = [name for name in base.layers() if ".attn" in name and name.startswith("unet.")]
    assert len(names) == 560
    adapters = []
    for at in range(3):
        deltas = {}
        for name in names:
            out, inner = shape_of(base.layers()[name])
            down, up = (torch.empty(*shape, device="meta") for shape in ((16, inner), (out, 16)))
            deltas[name] = LowRank(down, up, alpha=16)
        adapters.append(Adapter(deltas=deltas, kind="lora", family="sdxl", name=str(at)))
    return base, adapters


@pytest.mark.parametrize(("method", "sets"), SETS, ids=lambda one: str(one)[:9])
def test_sdxl_holds_eight_gigabytes_with_every_method(
    method: Method,
    sets: int,
    sdxl_shape: tuple[Base, list[Adapter]],
    like_a_gpu: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bytes counted on the meta device: of the base, of what mixes keep, of passes at 1024 px.

    sets: how many times all changed weights are kept at the most, where there is room.
    """
    base, adapters = sdxl_shape
    parts = [p for part in base.modules() for p in part.parameters()]
    weights = sum(one.numel() * one.itemsize for one in parts)
    assert 6.8 * GB < weights < 7.2 * GB
    monkeypatch.setattr(
        "compose.klora._size", lambda layer, *_: torch.tensor([len(layer) % 7, 1.0])
    )
    pairs = tuple((one, 0.8) for one in adapters[: 3 if isinstance(method, CMLoRA) else 2])
    wanted = Shot("a robot", width=1024, height=1024, steps=8, adapters=pairs, method=method)
    run = PictureRun(base, resolve(wanted, base), steps=8)
    factors = len(pairs) * FACTORS
    for free in (8 * GB - weights, 80 * GB):
        like_a_gpu(int(free))
        cache = RenderCache()
        room = room_for_weights(base, (128, 128), rows=2)
        cache.limit_weights(room)
        for mix in {run.mixed_weights(call.mix, unet=True) for step in run.calls for call in step}:
            _prepare_blocks(base, cache, [(2, mix)], 0)
        kept = cache.kept.nbytes
        assert kept <= room
        if free < 2 * GB:
            assert weights + kept + factors + UNET_PASS < 8 * GB
        else:
            assert 0.99 * CHANGED < kept < 1.01 * sets * CHANGED
            assert cache.kept.refused == 0


def test_the_second_pass_is_reckoned_with(base: Base, like_a_gpu: Callable[[int], None]) -> None:
    like_a_gpu(10**9)
    small, large = (room_for_weights(base, side, rows=2) for side in ((8, 8), (64, 64)))
    assert large < small
    base.low_memory = True
    assert room_for_weights(base, (8, 8), rows=2) == 0
    assert replace(base).set_aside == ()
