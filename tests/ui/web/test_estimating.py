"""What a training will take is told by a process of its own, and remembered for a while."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

import trainers
from studio.bases.info import BaseInfo, read_base_info
from studio.errors import BadInput
from studio.workspace import Workspace, open_workspace
from ui.web.train import estimate_process as _estimating
from ui.web.train.estimate_process import KEPT, Asked, estimated


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "space")


def asked(space: Workspace, kind: trainers.Kind, base: BaseInfo | None, **recipe: object) -> Asked:
    assert base
    return Asked.of(space, kind, base, pictures=5, recipe=recipe, loading={})


def test_it_is_told_in_a_sentence_and_not_worked_out_twice(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = asked(space, trainers.LoRA(rank=4), read_base_info("sketch-sd1"), steps=20)
    said = estimated(space, one)
    assert said.startswith("about ") and "of memory" in said

    def never(*_: object, **__: object) -> None:
        raise AssertionError("worked out again")

    monkeypatch.setattr(_estimating.subprocess, "run", never)
    assert estimated(space, one) == said
    with pytest.raises(AssertionError, match="again"):
        estimated(
            space, asked(space, trainers.LoRA(rank=5), read_base_info("sketch-sd1"), steps=20)
        )
    (kept,) = (space.cache / "estimates").iterdir()
    os.utime(kept, (kept.stat().st_mtime - KEPT,) * 2)
    with pytest.raises(AssertionError, match="again"):
        estimated(space, one)


def test_what_cannot_be_trained_is_refused_with_the_trainer_s_sentence(space: Workspace) -> None:
    wrong = asked(space, trainers.BLoRA(), read_base_info("sketch-sd1"))
    found = _estimating._estimate(wrong)
    with pytest.raises(BadInput, match="two blocks was found for SDXL"):
        _estimating._told(_estimating.json.dumps(found))


def test_a_large_base_is_not_opened(space: Workspace) -> None:
    large = asked(space, trainers.LoRA(), BaseInfo("some/base", "base", "sd2", 768, 64))
    assert (large.base, large.config) == ("", "sd21")
    found = [
        _estimating._estimate(replace(large, offload=offload))["said"] for offload in (False, True)
    ]
    taken = [float(said.split(" GB")[0].split()[-1]) for said in found]
    assert taken[1] < taken[0] - 0.2  # the VAE and the text encoder wait elsewhere
