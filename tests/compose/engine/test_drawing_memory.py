"""What a picture takes of the memory, held to what the allocator gives; what follows from it."""

import json
import re
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import compose
from compose.engine.expected import drawing_memory as room
from compose.engine.weights.render_cache import cache_of
from studio.bases.base import Base
from studio.cost import memory
from studio.cost.fake_base import run_unet
from studio.cost.operations import decoding_cost, evaluation_cost
from studio.errors import BadInput
from studio.requests.resolved_shot import resolve
from studio.requests.shot import Shot


def taken(profiled: profile) -> int:
    """The most bytes that the allocator had given at a time."""
    assert profiled.profiler and profiled.profiler.kineto_results
    events = profiled.profiler.kineto_results.events()
    return max(accumulate(one.nbytes() for one in events if one.name() == "[memory]"))  # pyright: ignore


def test_the_peak_of_a_pass_is_counted_without_computing_it(sdxl: Base) -> None:
    size = (128, 192)
    latents = torch.randn(1, 4, *(side // sdxl.latent_factor for side in size))
    memory_of = {"activities": [ProfilerActivity.CPU], "profile_memory": True}
    with torch.no_grad(), profile(**memory_of) as unet:  # pyright: ignore
        run_unet(sdxl, size, rows=2)
    with torch.no_grad(), profile(**memory_of) as vae:  # pyright: ignore
        sdxl.vae.decode(latents, return_dict=False)  # pyright: ignore[reportArgumentType]
    counted = evaluation_cost(sdxl, size=size, rows=2), decoding_cost(sdxl, size=size)
    for said, really in zip(counted, map(taken, (unet, vae)), strict=True):
        # A CPU's convolutions have more than their tensors, which is what TAKEN allows for.
        assert 0.95 * said.most < really < room.TAKEN["cpu"] * said.most


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, sdxl: Base) -> object:
    """Sets how many bytes are free, by what a part of a picture of 128 pixels takes."""
    monkeypatch.setattr(cache_of(sdxl), "taken", {})

    def leave(size: float) -> None:
        monkeypatch.setattr(room, "free_bytes", lambda _: int(size))

    return leave


def test_a_picture_that_does_not_fit_is_refused_with_a_size_that_does(sdxl: Base, free) -> None:
    shot = Shot("a robot", base=sdxl.source, width=256, height=128, steps=1)
    free(room.TAKEN["cpu"] * evaluation_cost(sdxl, size=(128, 256), rows=2).most / 4)
    said = "a picture of 256 x 128 pixels takes about .* choose a smaller width and height"
    with pytest.raises(BadInput, match=said) as refused:
        compose.render(sdxl, shot)
    width, height = map(int, re.findall(r"such as (\d+) x (\d+)", str(refused.value))[0])
    assert 64 <= width < 256 and 32 <= height < 128
    assert compose.render(sdxl, replace(shot, width=width, height=height)).size == (width, height)
    (failed,) = compose.render_many(sdxl, [shot])
    assert isinstance(failed, compose.Failed) and "choose a smaller width" in failed.reason
    free(1e12)
    assert compose.render(sdxl, shot).size == (256, 128)


def test_a_picture_of_which_only_the_latents_fit_is_decoded_in_tiles(sdxl: Base, free) -> None:
    shot = Shot("a robot", base=sdxl.source, width=128, height=128, steps=1)
    whole = compose.render(sdxl, shot)
    assert sdxl.vae.tile_sample_min_size == 64
    resolved = resolve(shot, sdxl)
    free(room.TAKEN["cpu"] * decoding_cost(sdxl, size=(128, 128)).most - 1)
    tiled = compose.render(sdxl, resolved)
    assert not sdxl.vae.use_tiling
    assert "vae_tiling" not in json.loads(whole.info["studio"])["base"]
    assert json.loads(tiled.info["studio"])["base"]["vae_tiling"] is True
    assert tiled.size == whole.size and tiled.tobytes() != whole.tobytes()


def test_a_second_pass_is_what_must_fit(sdxl: Base, free) -> None:
    free(room.TAKEN["cpu"] * evaluation_cost(sdxl, size=(128, 128), rows=2).most)
    shot = Shot("a robot", base=sdxl.source, width=64, height=64, steps=2, second_pass=4.0)
    with pytest.raises(BadInput, match="a picture of 256 x 256 pixels"):
        next(compose.denoise(sdxl, shot))


def test_a_container_has_less_than_the_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    cpu = torch.device("cpu")
    assert memory.free_bytes(cpu) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8000 kB\n")
    assert memory.free_bytes(cpu) == 8000 * 1024
    for name, text in (
        ("max", "max\n"),
        ("current", "3000\n"),
        ("stat", "anon 9\ninactive_file 500\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.free_bytes(cpu) == 8000 * 1024
    (tmp_path / "memory.max").write_text("4000\n")
    assert memory.free_bytes(cpu) == 1500


def test_the_time_of_a_large_picture_is_told(sdxl: Base) -> None:
    small, large = (resolve(Shot("a", width=side, height=side), sdxl) for side in (64, 128))
    assert compose.time_note(sdxl, small) == ""
    assert re.match(r"about \d+ s|\d+ .*to \d+ ", compose.time_note(sdxl, large))
