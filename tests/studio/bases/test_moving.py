"""Which parts of a base are on the device: with the meta device in the GPU's place."""

from pathlib import Path

import pytest
import torch
from torch import nn

from studio.bases.base import Base
from studio.bases.load import load_base


@pytest.fixture
def base(sd1_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    """A base that notes where its parts are told to go."""
    opened = load_base(sd1_folder, device="cpu")
    monkeypatch.setattr("studio.bases.base.has_own_memory", lambda device: True)
    return opened


@pytest.fixture
def moves(base: Base, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    names = {id(base.unet): "unet", id(base.vae): "vae", id(base.text_encoders[0]): "text"}
    base.device = torch.device("meta")

    def move(part: nn.Module, device: torch.device) -> None:
        found.append((names[id(part)], device.type))

    monkeypatch.setattr("studio.bases.base._move", move)
    return found


def test_idle_parts_leave_when_the_unet_is_at_work(
    base: Base, moves: list[tuple[str, str]]
) -> None:
    base.move_to_device(base.unet)
    assert moves == [("unet", "meta")]
    with base.put_aside(base.vae, *base.text_encoders):
        moves.clear()
        base.move_to_device(base.vae)  # a sample is decoded: nothing else is at work
        assert moves == [("vae", "meta")]
        moves.clear()
        base.move_to_device(base.unet)
        assert moves == [("vae", "cpu"), ("text", "cpu"), ("unet", "meta")]
        moves.clear()
    assert moves == [("vae", "meta"), ("text", "meta")]
    assert base.set_aside == ()


def test_offload_keeps_one_part_there(base: Base, moves: list[tuple[str, str]]) -> None:
    base.offload = True
    base.move_to_device(base.vae)
    assert moves == [("unet", "cpu"), ("text", "cpu"), ("vae", "meta")]
    moves.clear()
    with base.put_aside(base.vae):
        pass
    assert not moves  # it comes when it is needed


def test_a_part_that_finds_no_room_is_whole_where_it_was(base: Base) -> None:
    class Large(nn.Linear):
        def to(self, device: torch.device) -> "Large":  # pyright: ignore
            places.append(str(device))
            if len(places) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self

    places: list[str] = []
    base.device = torch.device("cuda")
    with base.put_aside(Large(1, 1)):
        pass
    assert places == ["cuda", "cpu"]


def test_a_vae_that_finds_no_room_is_given_some(
    base: Base, moves: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base.device = torch.device("cpu")
    whole, tries = base.move_to_device, []

    def move(*parts: nn.Module) -> None:
        tries.append(parts)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        whole(*parts)

    monkeypatch.setattr(base, "move_to_device", move)
    assert base.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)
    assert moves == [("unet", "cpu"), ("text", "cpu"), ("vae", "cpu")]


def test_a_part_that_is_there_is_left_alone(sd1_folder: Path) -> None:
    base = load_base(sd1_folder, device="cpu")
    base.unet.to = lambda *_: pytest.fail("moved")  # pyright: ignore[reportAttributeAccessIssue]
    base.move_to_device(base.unet)


def test_a_base_that_does_not_fit_is_opened_with_offload(
    sd1_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("studio.bases.load.has_own_memory", lambda device: True)
    whole, tries = nn.Module.to, []

    def to(part: nn.Module, *where: object, **named: object) -> nn.Module:
        if where and isinstance(where[0], torch.device) and where[0].type == "cpu":
            tries.append(part)
            if len(tries) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(part, *where, **named)  # pyright: ignore

    monkeypatch.setattr("diffusers.ModelMixin.to", to)
    assert load_base(sd1_folder, device="cpu").offload
    assert "can't hold the whole base" in caplog.text
