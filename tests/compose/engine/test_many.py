"""Many shots as batches: the pictures are those of one shot after another."""

import dataclasses
import gc
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

import compose.engine.batch.adapter_cache as shelf
import compose.engine.batch.rendering as many
from compose import (
    AdapterCache,
    CMLoRA,
    Composite,
    Failed,
    GroupStep,
    KLoRA,
    Made,
    Switch,
    batch_sizes,
    group_shots,
    render,
    render_groups,
    render_many,
)
from compose.engine.weights.render_cache import cache_of
from studio.adapters.adapter import Adapter
from studio.adapters.delta import Delta, Dense
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.prompts import TextEmbedding
from studio.bases.samplers import SCHEDULERS
from studio.requests.resolved_shot import with_size
from studio.requests.shot import Shot
from tests.compose.conftest import bits, same_bits


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents [1, 4, h, w] instead of pictures, which would hide small differences."""
    monkeypatch.setattr(many, "decode", lambda base, shot, latents, **_: latents)


@pytest.fixture(scope="session")
def exact(folders: dict[str, Path]) -> dict[str, Base]:
    """Bases of their own in float64, in which rounding otherwise is no difference any more."""
    return {family: in_float64(load_base(folder)) for family, folder in folders.items()}


def in_float64(base: Base) -> Base:
    for part in (base.unet, *base.text_encoders):
        part.double()
    base.dtype = torch.float64
    return base


def made(base: Base, shots: Sequence[Shot]) -> list[Tensor]:
    """What is made of shots, in their order."""
    found = {}
    for event in render_many(base, shots):
        assert isinstance(event, Made), event
        found[event.number] = event.picture
    return [found[number] for number in range(len(shots))]


def assert_same(base: Base, shots: Sequence[Shot]) -> None:
    before = bits(base)
    together = made(base, shots)
    assert same_bits(base, before)
    assert not any("forward" in vars(module) for module in base.unet.modules())
    for shot, latents in zip(shots, together, strict=True):
        alone = render(base, shot, output="latents")
        torch.testing.assert_close(latents, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("undecoded")
def test_pictures_are_those_of_one_shot_after_another(
    exact: dict[str, Base], forms: list[Adapter]
) -> None:
    """Every form and method, with and without guidance, two sizes: all that can share does."""
    lora, kron, sparse, dense = forms
    start = Image.effect_mandelbrot((64, 64), (-2.0, -1.5, 1.0, 1.5), 50).convert("RGB")
    shots = [
        Shot("a cat"),
        Shot("a red robot", seed=1, adapters=((lora, 0.8),)),
        Shot("a red robot", seed=2, adapters=((lora, 0.8),), guidance=7.5, negative="a dog"),
        Shot("a star", seed=3, adapters=((kron, 0.5),), guidance=1.0),
        Shot("a star", seed=4, adapters=((sparse, 1.0), (lora, -0.3))),
        Shot("a cat", seed=5, adapters=((dense, 0.7),)),
        Shot("a cat", seed=6, adapters=((lora, 1.0), (kron, 0.5)), method=Composite()),
        Shot("a cat", seed=7, adapters=((lora, 1.0), (dense, 0.5)), method=Switch(interval=1)),
        Shot("a dog", seed=8, adapters=((lora, 1.0), (sparse, 1.0)), method=KLoRA()),
        Shot("a dog", seed=9, adapters=((lora, 1.0), (kron, 1.0)), method=CMLoRA(order=(1, 2))),
        Shot("a dog", seed=10, width=128, adapters=((kron, 1.0),)),
        Shot("a cat", seed=11, init_image=start, denoise=1.0, adapters=((lora, 0.8),)),
    ]
    assert_same(exact["sdxl"], [dataclasses.replace(shot, steps=3) for shot in shots])


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_whatever_the_scheduler(exact: dict[str, Base], scheduler: str) -> None:
    """Each shot's own noise too, where the sampler adds some."""
    shots = [Shot("a cat", seed=seed, steps=3, scheduler=scheduler) for seed in (5, 5, 6)]
    assert_same(exact["sd2"], shots)


def test_alone_it_is_the_same_picture_bit_for_bit(sdxl: Base, forms: list[Adapter]) -> None:
    shot = Shot("a cat", seed=2, steps=2, adapters=((forms[0], 0.8),))
    (event,) = render_many(sdxl, [shot])
    assert isinstance(event, Made)
    expected = render(sdxl, shot)
    assert event.picture.tobytes() == expected.tobytes()
    assert event.picture.info == expected.info


def test_files_are_read_and_texts_encoded_once(
    sdxl: Base, lora_files: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, said = [], []
    load, encode = shelf.load_adapter, sdxl.encode_text

    def load_watched(path: Path, *, base: Base) -> Adapter:
        read.append(path.name)
        return load(path, base=base)

    def encode_watched(texts: Sequence[str], **named: Any) -> TextEmbedding:
        said.extend(texts)
        return encode(texts, **named)

    monkeypatch.setattr(shelf, "load_adapter", load_watched)
    monkeypatch.setattr(sdxl, "encode_text", encode_watched)
    cache_of(sdxl).texts.clear()
    files = lora_files["sdxl"]
    shots = [
        Shot(prompt, seed=seed, steps=2 + seed % 2, adapters=((file, 0.8),), negative="a dog")
        for prompt in ("a sks robot", "an ink star")
        for seed in range(4)
        for file in files
    ]
    assert len(made(sdxl, shots)) == 16
    assert sorted(read) == sorted(file.name for file in files)
    # These adapters change the text encoders, so a text is another one under each of them.
    assert sorted(said) == sorted(2 * ["a sks robot", "an ink star", "a dog"])


def test_adapters_that_no_later_group_wants_are_let_go_of(
    sdxl: Base, lora_files: dict[str, tuple[Path, Path]]
) -> None:
    one, two = lora_files["sdxl"]
    shots = [
        with_size(Shot("a cat", steps=1, adapters=((file, 1.0),)), sdxl) for file in (one, two)
    ]
    shelf, there = AdapterCache(sdxl), []
    for groups in (group_shots(shots, {"64x64": 1}), group_shots(shots[:1], {})):
        list(render_groups(sdxl, shots, groups, shelf))
        there.append(list(shelf._loaded))
    # The last group's stay, as another call may go on with them.
    assert there == [[str(two)], [str(two), str(one)]]


def test_more_texts_are_kept_than_for_a_picture(
    sdxl: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    encode = sdxl.encode_text

    def encode_watched(texts: Sequence[str], **named: Any) -> TextEmbedding:
        said.extend(texts)
        return encode(texts, **named)

    monkeypatch.setattr(sdxl, "encode_text", encode_watched)
    two = 2 * sdxl.encode_text([""]).nbytes
    said.clear()
    monkeypatch.setattr("compose.engine.weights.render_cache.TEXT_BYTES", two)
    monkeypatch.setattr(cache_of(sdxl), "_text_bytes", two)
    cache_of(sdxl).texts.clear()
    shots = [Shot(f"{seed} cats", steps=1, width=side) for side in (64, 128) for seed in range(5)]
    assert len(made(sdxl, shots)) == 10
    assert sorted(said) == [f"{seed} cats" for seed in range(5)]
    assert len(cache_of(sdxl).texts) == 2
    for seed in range(2):  # what is looked over before a picture is not let go of for it
        render(sdxl, Shot("a star", seed=seed, steps=1))
    assert len(cache_of(sdxl).texts) == 2


def test_on_a_cpu_groups_follow_from_the_sizes_of_pictures_alone(
    sdxl: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compose.engine.batch.memory_limit.evaluate_first_step", None)
    shots = [with_size(Shot("a cat", width=width), sdxl) for width in (64, 128)]
    assert batch_sizes(sdxl, shots, AdapterCache(sdxl)) == {"64x64": 64, "128x64": 32}


def tensor_bytes() -> int:
    """Of all tensors that Python knows, but those that were there before a batch was begun."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, Tensor)]
    # Fake ones, by which memory is counted, have no bytes.
    storages = [one.untyped_storage() for one in tensors if not isinstance(one, FakeTensor)]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_however_many_mixes_and_prompts_a_batch_has_it_keeps_no_more(
    sdxl: Base, forms: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, kron, sparse, dense = forms
    weights, text = 200_000, sdxl.encode_text([""]).nbytes
    monkeypatch.setattr("compose.engine.gpu.memory.MIXES_ON_CPU", 0)
    monkeypatch.setattr("compose.engine.gpu.memory.BYTES_ON_CPU", weights)
    monkeypatch.setattr("compose.engine.weights.render_cache.TEXT_BYTES_OF_BATCH", 8 * text)
    monkeypatch.setattr("compose.engine.evaluate.MOST_ON_CPU", 8 * 64)
    shots = [
        Shot(f"{n} cats", seed=n, steps=1, adapters=(((kron, sparse, dense)[n % 3], 1 - n / 100),))
        for n in range(32)
    ]
    cache, kept, texts, everything = cache_of(sdxl), [], [], []
    for event in render_many(sdxl, shots):
        assert isinstance(event, Made), event
        kept.append(sum(one.nbytes for one in cache.kept.weights.values() if one.ndim > 1))
        texts.append(sum(one.nbytes for one in cache.texts.values()))
        if len(kept) % 4 == 0:  # once a group
            everything.append(tensor_bytes())
    assert weights / 2 < max(kept) <= weights
    assert 8 * text < max(texts) <= (8 + 4) * text  # and those of the group at work
    assert max(everything[4:]) <= max(everything[:4]) + weights


def test_what_cannot_be_made_is_told_and_stops_nothing(
    sdxl: Base, lora_files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    hurt = Path(shutil.copy(lora_files["sdxl"][0], tmp_path / "hurt.safetensors"))
    with hurt.open("r+b") as file:
        file.truncate(hurt.stat().st_size - 8)
    wild: dict[str, Delta] = {"unet.conv_out": Dense(torch.full((4, 32, 3, 3), torch.inf))}
    shots = [
        Shot("a cat", steps=1),
        Shot("a cat", steps=1, adapters=((hurt, 1.0),)),
        Shot(
            "a cat", steps=1, adapters=((Adapter(deltas=wild, kind="unknown", family="sdxl"), 1.0),)
        ),
        Shot("a cat", steps=1, adapters=((lora_files["sdxl"][1], 1.0),)),
        Shot("a cat", steps=1, method=KLoRA(style=(2,))),
    ]
    found = {event.number: event for event in render_many(sdxl, shots)}
    assert {number for number, event in found.items() if isinstance(event, Made)} == {0, 3}
    said = {number: event.reason for number, event in found.items() if isinstance(event, Failed)}
    assert "hurt.safetensors" in said[1]
    assert "lower the strengths" in said[2]
    assert "there is no adapter 2" in said[4]


def test_a_shot_whose_files_are_not_there_stops_no_other_where_groups_are_measured(
    sdxl: Base, forms: list[Adapter], tmp_path: Path
) -> None:
    hurt = tmp_path / "hurt.png"
    hurt.write_bytes(b"no picture")
    common = {"prompt": "a cat", "steps": 50}
    shots = [
        Shot(**common, adapters=((tmp_path / "none.safetensors", 1.0),)),
        Shot(**common, adapters=((forms[0], 1.0),)),
        Shot(**common, init_image=tmp_path / "none.png"),
        Shot(**common, adapters=((forms[1], 1.0),)),
        Shot(**common, init_image=hurt),
    ]
    found = {event.number: event for event in render_many(sdxl, shots)}
    assert {number for number, event in found.items() if isinstance(event, Made)} == {1, 3}
    said = {number: event.reason for number, event in found.items() if isinstance(event, Failed)}
    assert "none.safetensors" in said[0]
    assert "no picture at" in said[2] and "can't be read as a picture" in said[4]


def on_a_cpu() -> Exception:
    """What PyTorch says where a CPU's memory does not do."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("there is that much")


NO_MEMORY = [torch.OutOfMemoryError("no"), on_a_cpu(), MemoryError()]
NO_MEMORY += [RuntimeError("could not create a primitive")]  # of oneDNN


@pytest.fixture(params=NO_MEMORY, ids=["CUDA", "CPU", "Python", "oneDNN"])
def no_memory(request: pytest.FixtureRequest) -> Exception:
    return request.param


@pytest.fixture
def little_memory(sdxl: Base, no_memory: Exception, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Room for six rows of the UNet; the rows that were tried."""
    predict, tried = sdxl.predict, []

    def few(latents: Tensor, *given: object, **named: object) -> Tensor:
        tried.append(len(latents))
        if len(latents) > 6:
            raise no_memory
        return predict(latents, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(sdxl, "predict", few)
    return tried


def test_a_batch_that_the_memory_does_not_hold_is_made_in_smaller_ones(
    sdxl: Base, little_memory: list[int]
) -> None:
    shots = [with_size(Shot("a cat", seed=seed, steps=2), sdxl) for seed in range(8)]
    groups = group_shots(shots, {"64x64": 4})
    pictures = pictures_in(render_groups(sdxl, shots, groups, AdapterCache(sdxl)))
    assert sorted(pictures) == list(range(8))
    # The first group tries all of its rows once, and later batches are of four rows at once.
    assert little_memory == [8, 4, 4, 4, 4, *4 * [4]]
    assert not cache_of(sdxl).most_rows
    # Bit for bit what those rows give where they are wanted from the start.
    groups = [dataclasses.replace(group, rows=4) for group in groups]
    for number, picture in pictures_in(
        render_groups(sdxl, shots, groups, AdapterCache(sdxl))
    ).items():
        assert picture.tobytes() == pictures[number].tobytes()


def pictures_in(events: Iterable[object]) -> dict[int, Image.Image]:
    """The pictures by their numbers; none may have failed."""
    found = list(events)
    assert not any(isinstance(event, Failed) for event in found)
    return {event.number: event.picture for event in found if isinstance(event, Made)}


def test_without_memory_for_one_the_others_go_on(
    sdxl: Base, no_memory: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = sdxl.predict

    def none_for_large(latents: Tensor, *given: object, **named: object) -> Tensor:
        if latents.shape[-1] > 8:
            raise no_memory
        return predict(latents, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(sdxl, "predict", none_for_large)
    shots = [Shot("a cat", steps=1), Shot("a cat", steps=1, width=128), Shot("a dog", steps=1)]
    found = {event.number: event for event in render_many(sdxl, shots)}
    assert isinstance(found[1], Failed) and "not enough memory" in found[1].reason
    assert isinstance(found[0], Made) and isinstance(found[2], Made)


def test_another_error_is_no_want_of_memory(sdxl: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **named: object) -> Tensor:
        raise RuntimeError("of another kind")

    monkeypatch.setattr(sdxl, "predict", broken)
    with pytest.raises(RuntimeError, match="of another kind"):
        list(render_many(sdxl, [Shot("a cat", steps=1)]))


def test_a_picture_without_memory_to_decode_is_decoded_again(
    sdxl: Base, no_memory: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = Shot("a cat", steps=1)
    expected = render(sdxl, shot)
    decode, tried = sdxl.decode, []

    def once_not(latents: Tensor, *, alone: bool) -> Tensor:
        assert alone is bool(tried)  # at first another thread may draw the next picture
        tried.append(1)
        if len(tried) == 1:
            raise no_memory
        return decode(latents)

    monkeypatch.setattr(sdxl, "decode", once_not)
    (event,) = render_many(sdxl, [shot])
    assert isinstance(event, Made) and len(tried) == 2
    assert event.picture.tobytes() == expected.tobytes()


def test_the_collector_passes_over_what_was_there_only_while_a_batch_is_made(
    thawed: None, sdxl: Base, forms: list[Adapter], undecoded: None
) -> None:
    shots = [Shot("a cat", steps=1, adapters=((one, 1.0),)) for one in forms]
    frozen = [gc.get_freeze_count() > 0 for _ in render_many(sdxl, shots)]
    assert frozen == [True] * len(forms) and gc.get_freeze_count() == 0


class Libc:
    """What glibc is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def mallopt(self, name: int, value: int) -> None:
        self.told.append((name, value))

    def malloc_trim(self, pad: int) -> None:
        self.told.append((pad,))


def test_a_batch_leaves_the_process_as_it_was(
    thawed: None, sdxl: Base, undecoded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc, usual = Libc(), 128 * 1024
    monkeypatch.setattr("compose.engine.batch.allocator._glibc", lambda: libc)
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    gc.freeze()
    try:
        list(render_many(sdxl, [Shot("a cat", steps=1)]))
        assert gc.get_freeze_count() > 0  # the caller's
    finally:
        gc.unfreeze()
    assert libc.told[2:] == [(-1, usual), (-3, usual), (0,)]
    events = render_many(sdxl, [Shot("a cat", steps=1)])
    next(events)
    gc.freeze()  # while the batch is being made
    try:
        assert not list(events) and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    libc.told.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    list(render_many(sdxl, [Shot("a cat", steps=1)]))
    assert not libc.told


def test_pictures_are_given_while_the_next_group_is_at_work(
    sdxl: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, given, there = sdxl.predict, [], Event()

    def on_picture(made: Made) -> None:
        given.append(made)
        if len(given) == 2:
            there.set()

    def second_waits(latents: Tensor, *rest: object, **named: object) -> Tensor:
        if steps:
            assert there.wait(60)
        steps.append(1)
        return predict(latents, *rest, **named)  # type: ignore[arg-type]

    steps: list[int] = []
    monkeypatch.setattr(sdxl, "predict", second_waits)
    shots = [with_size(Shot("a cat", seed=seed, steps=1), sdxl) for seed in range(4)]
    groups = group_shots(shots, {"64x64": 2})
    events = list(render_groups(sdxl, shots, groups, AdapterCache(sdxl), on_picture=on_picture))
    assert len(steps) == 2
    assert [event for event in events if isinstance(event, Made)] == given and len(given) == 4


def test_one_may_stop_at_any_step(sdxl: Base, forms: list[Adapter]) -> None:
    before = bits(sdxl)
    shots = [with_size(Shot("a cat", steps=3, adapters=((one, 1.0),)), sdxl) for one in forms]
    groups = group_shots(shots, {"64x64": 2})
    events = render_groups(sdxl, shots, groups, AdapterCache(sdxl))
    seen = [event for event, _ in zip(events, range(4), strict=False)]
    assert [event.step for event in seen if isinstance(event, GroupStep)] == [1, 2, 3, 1]
    assert same_bits(sdxl, before)
    events.close()
    assert same_bits(sdxl, before)
