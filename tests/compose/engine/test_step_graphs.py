"""CUDA graphs, with a fake that records a pass and computes it again into the same memory."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compose import CMLoRA, Merge, Switch, render
from compose.engine.gpu.memory import make_room
from compose.engine.gpu.step_graphs import MOST_GRAPHS, Graph, Pass, StepGraphs
from compose.engine.weights.render_cache import cache_of
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.requests.shot import Shot
from tests.compose.engine.test_memory import shot


class Fake:
    """Captures on a CPU. captured: shapes of every pass; replays: of all."""

    def __init__(self, *, faster: bool = True) -> None:
        self.captured: list[tuple[torch.Size, ...]] = []
        self.replays, self.faster = 0, faster

    def capture(self, work: Pass, inputs: Sequence[Tensor], pools: object) -> Graph:
        fixed = [one.clone() for one in inputs]
        output = work(*fixed)
        self.captured.append(tuple(one.shape for one in inputs))

        def replay() -> None:
            self.replays += 1
            output.copy_(work(*fixed))

        return Graph(fixed, output, replay)

    def seconds_of(self, work: Pass, inputs: Sequence[Tensor]) -> float:
        return 1.0 if isinstance(work, Graph) is self.faster else 2.0

    def graphs(self) -> StepGraphs:
        return StepGraphs(capture=self.capture, seconds_of=self.seconds_of)


def double(x: Tensor) -> Tensor:
    return 2 * x


def test_a_pass_is_captured_once_for_each_shape_and_owner() -> None:
    fake = Fake()
    graphs, one, two = fake.graphs(), object(), object()
    ones, wide = torch.ones(2), torch.ones(3)
    first = graphs.run(one, double, [ones])
    again = graphs.run(one, double, [3 * ones])
    assert first.tolist() == [2, 2] and again.tolist() == [6, 6]  # not the same memory
    graphs.run(one, double, [wide])
    graphs.run(two, double, [wide])
    assert len(fake.captured) == 3 and fake.replays == 4
    graphs.release([two])
    graphs.run(two, double, [wide])
    graphs.run(one, double, [wide])
    assert len(fake.captured) == 4


def test_what_is_no_faster_is_computed_as_ever() -> None:
    fake = Fake(faster=False)
    graphs, owner = fake.graphs(), object()
    for _ in range(2):
        assert graphs.run(owner, double, [torch.ones(2)]).tolist() == [2, 2]
    assert len(fake.captured) == 1 and not fake.replays


def test_a_failure_is_said_and_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    def fail(work: Pass, inputs: Sequence[Tensor], pools: object) -> Graph:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    graphs = StepGraphs(capture=fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert graphs.run(object(), double, [torch.ones(1)]).tolist() == [2]
    assert [one.getMessage() for one in caplog.records] == [
        "Steps are computed without CUDA graphs, which failed: operation not permitted"
    ]


def test_only_so_many_are_kept() -> None:
    fake = Fake()
    graphs, owner = fake.graphs(), object()
    for size in range(1, MOST_GRAPHS + 3):
        graphs.run(owner, double, [torch.ones(size)])
    graphs.run(owner, double, [torch.ones(1)])
    assert len(fake.captured) == MOST_GRAPHS + 3


@pytest.fixture
def base(sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setattr("compose.engine.evaluate.has_own_memory", lambda device: True)
    return load_base(sdxl_folder, device="cpu")


@pytest.mark.parametrize("method", [Merge(), Switch(interval=1)])
def test_pictures_are_the_same_by_graphs(method: Merge | Switch, base: Base) -> None:
    wanted = shot(base, method, 2)
    base.cuda_graphs = False
    expected = [render(base, replace(wanted, seed=seed), output="latents") for seed in (1, 2)]
    plain = render(base, Shot("a cat", steps=2), output="latents")
    base.cuda_graphs, fake = True, Fake()
    cache_of(base).graphs = fake.graphs()
    for seed, one in zip((1, 2), expected, strict=True):
        assert torch.equal(render(base, replace(wanted, seed=seed), output="latents"), one)
    mixes = 1 if isinstance(method, Merge) else 2
    assert len(fake.captured) == mixes  # nothing is captured for the second picture
    assert fake.replays == 2 * wanted.steps
    assert torch.equal(render(base, Shot("a cat", steps=2), output="latents"), plain)
    assert len(fake.captured) == mixes + 1


def test_where_memory_runs_out_graphs_are_let_go_of(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("compose.engine.gpu.memory", "studio.bases.base"):
        monkeypatch.setattr(f"{module}.has_own_memory", lambda device: True)
    fake, owner = Fake(), object()
    graphs = cache_of(base).graphs = fake.graphs()
    graphs.run(owner, double, [torch.ones(2)])
    assert make_room(base, (8, 8)) and base.parts_move
    graphs.run(owner, double, [torch.ones(2)])
    assert len(fake.captured) == 2


def test_what_moves_or_is_reused_is_no_graph(base: Base) -> None:
    fake = Fake()
    cache_of(base).graphs = fake.graphs()
    plain = Shot("a cat", steps=1)
    base.set_aside = base.text_encoders
    render(base, plain, output="latents")
    base.set_aside = ()
    render(base, shot(base, CMLoRA(), 2), output="latents")
    base.cuda_graphs = False
    render(base, plain, output="latents")
    assert not fake.captured
