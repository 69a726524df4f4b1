"""Distillations: trajectories against diffusers, losses against formulas, and their files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionXLPipeline
from torch import Tensor

import compose
import trainers
from studio import Adapter, Base, load_adapter
from studio.adapters.delta import LowRank
from studio.adapters.rank_schedule import RankSchedule
from studio.adapters.speed import Sampling, speed_sampling
from studio.errors import BadInput
from studio.requests.shot import Shot
from studio.requests.training import read_request
from tests.trainers.learning import assert_lent
from trainers import LCM, Finished, Guidance, Kind, Progress, Started, Step, TLoRA
from trainers.engine.from_prompts.distillation import Distillation, Lesson
from trainers.engine.from_prompts.trajectories import Points, Trajectories
from trainers.engine.kind import new_deltas
from trainers.engine.objective import Objective

PROMPTS = ("a red robot", "a blue cat", "the green star", "a dog in ink style", "a photo")
SHORT = {"steps": 6, "batch": 2, "lr": 1e-3, "save_every": 0}
KINDS = [Guidance(rank=2, teacher_steps=4), LCM(rank=2, teacher_steps=4)]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    return file


def distilled(kind: Kind, base: Base, prompts: Path, run: Path, **options) -> list[Progress]:
    return list(trainers.distill(kind, base, prompts=prompts, run=run, **{**SHORT, **options}))


def objective(base: Base) -> Objective:
    return Objective(
        base.alphas_cumprod,
        prediction_type=base.prediction_type,
        min_snr=0,
        device=base.device,
    )


@pytest.mark.parametrize("name", ["sd1_folder", "sd2_folder"])
def test_a_trajectory_is_that_of_diffusers(name: str, request: pytest.FixtureRequest) -> None:
    """DDIM on noise and on velocity, each place with its prompt."""
    from studio import load_base

    base = load_base(request.getfixturevalue(name), device="cpu")
    scheduler: Any = DDIMScheduler.from_config(
        base.scheduler_config,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(5)

    def teacher(latents: Tensor, timestep: int, prompts: Sequence[str]) -> Tensor:
        return torch.tanh(latents) * len(prompts[0]) / 10 + timestep / 1000

    made = Trajectories(
        teacher,
        objective(base),
        ["cat"],
        places=[0, 1],
        of=2,
        shape=(4, 8, 8),
        length=5,
        batch=1,
        shifted=False,
        leaps=False,
        seed=3,
    )
    made.advance(0, last=5)
    found = {}
    for step in range(5):
        points = made.points(step, [1])
        found[int(points.timesteps)] = points
    assert sorted(found, reverse=True) == scheduler.timesteps.tolist()
    latents = found[999].latents
    for timestep in scheduler.timesteps:
        points = found[int(timestep)]
        torch.testing.assert_close(points.latents, latents, atol=1e-5, rtol=1e-5)
        guided = teacher(latents, int(timestep), ["cat"])
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        torch.testing.assert_close(points.following, latents, atol=1e-5, rtol=1e-5)


def test_rounds_bring_every_prompt_and_every_point_once(sd1: Base) -> None:
    made = Trajectories(
        lambda latents, timestep, prompts: latents,
        objective(sd1),
        PROMPTS,
        places=range(2),
        of=2,
        shape=(4, 2, 2),
        length=4,
        batch=2,
        shifted=True,
        leaps=True,
        seed=0,
    )
    seen, times = [], []
    for step in range(20):
        made.advance(step, last=20)
        points = made.points(step, [0, 1])
        seen.append(points.prompts)
        times.append(points.timesteps.tolist())
    rounds = [seen[start] for start in range(0, 20, 4)]
    assert sorted(prompt for pair in rounds for prompt in pair) == sorted(PROMPTS * 2)
    for start in range(0, 20, 4):
        for place in (0, 1):
            turns = [pair[place] for pair in times[start : start + 4]]
            assert len(set(turns)) == 4
            assert max(turns) == 999
    others = {min(pair[0] for pair in times[start : start + 4]) for start in range(0, 20, 4)}
    assert len(others) > 1  # shifted: another grid in another round


def test_the_losses_are_their_formulas(sd1: Base) -> None:
    """Guidance: the squared error. LCM: diffusers' boundary conditions, and Huber's distance."""
    generator = torch.Generator().manual_seed(0)
    z, s, guided = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    t, u = torch.tensor([999, 499]), torch.tensor([979, 479])
    points = Points(z, t, guided, s, u, ("a", "b"))
    lesson = Lesson(points, lambda latents, timesteps: latents.sin(), objective(sd1))
    assert Guidance().loss(lesson).item() == pytest.approx(
        (z.sin() - guided).pow(2).mean().item(), rel=1e-5
    )
    scheduler: Any = LCMScheduler.from_config(sd1.scheduler_config)
    scheduler.set_timesteps(4)

    def clean(latents: Tensor, timestep: int) -> Tensor:
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        a = scheduler.alphas_cumprod[timestep]
        return out * (latents - (1 - a).sqrt() * latents.sin()) / a.sqrt() + skip * latents

    here = torch.stack([clean(row, int(time)) for row, time in zip(z, t, strict=True)])
    there = torch.stack([clean(row, int(time)) for row, time in zip(s, u, strict=True)])
    expected = ((here - there).pow(2) + 0.001**2).sqrt().mean() - 0.001
    assert LCM().loss(lesson).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_teacher_is_the_guided_base_whatever_the_student_is(
    sdxl: Base, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trajectory ends in the latents that the engine draws with DDIM, guided."""
    lessons: list[Points] = []
    own = Guidance.loss

    def loss(self: Guidance, lesson: Lesson) -> Tensor:
        lessons.append(lesson.point)
        return own(self, lesson)

    monkeypatch.setattr(Guidance, "loss", loss)
    monkeypatch.setattr(Guidance, "shifted", False)
    with assert_lent(sdxl):
        distilled(KINDS[0], sdxl, prompts, tmp_path / "run", steps=8, lr=0.1)
    last = next(one for one in lessons[4:] if int(one.following_timesteps[0]) == 0)
    noise = next(one for one in lessons[4:] if int(one.timesteps[0]) == 999).latents[:1]
    monkeypatch.setattr(torch, "randn", lambda *shape, generator=None: noise)
    shot = Shot(last.prompts[0], steps=4, guidance=5.0, scheduler="ddim", spacing="trailing")
    drawn = compose.render(sdxl, shot, output="latents")
    torch.testing.assert_close(last.following[:1], drawn, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_nearer_to_its_teacher(
    kind: Distillation, sdxl: Base, prompts: Path, tmp_path: Path
) -> None:
    """Than one that hardly learns, at the same points of the same trajectories."""
    kind = replace(kind, rank=8, targets="all")
    prompts.write_text(PROMPTS[0])
    losses = []
    for lr in (1e-9, 1e-3):
        events = distilled(kind, sdxl, prompts, tmp_path / f"{lr}", steps=40, lr=lr)
        losses.append([event.loss for event in events if isinstance(event, Step)])
        started = events[0]
        assert isinstance(started, Started)
        assert (started.examples, started.unit) == (1, "prompt")
    assert losses[0][0] == losses[1][0]
    assert sum(losses[1][-16:]) < 0.96 * sum(losses[0][-16:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_makes_the_same_file(
    kind: Distillation, sdxl: Base, prompts: Path, tmp_path: Path
) -> None:
    """Stopped in the middle of a round, with accumulation."""
    options = {"steps": 7, "batch": 1, "accumulation": 2}
    distilled(kind, sdxl, prompts, tmp_path / "whole", **options)
    stopped = trainers.distill(
        kind, sdxl, prompts=prompts, run=tmp_path / "parts", **{**SHORT, **options}
    )
    for event in stopped:
        if isinstance(event, Step) and event.step == 5:
            break
    stopped.close()
    list(trainers.resume(tmp_path / "parts", sdxl))
    whole, parts = (tmp_path / run / "adapter.safetensors" for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_its_file_says_how_to_draw_and_loads_in_diffusers(
    sdxl: Base, sdxl_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    finished = distilled(KINDS[1], sdxl, prompts, tmp_path / "run", steps=1)[-1]
    assert isinstance(finished, Finished)
    assert speed_sampling(finished.path) == Sampling("LCM", "lcm", None, 4, 1.0)
    adapter = load_adapter(finished.path, base=sdxl)
    assert adapter.triggers == ()
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
    pipeline.load_lora_weights(str(finished.path))
    (layer, delta), *_ = adapter.deltas.items()
    assert isinstance(delta, LowRank)
    theirs = pipeline.unet.get_submodule(layer.removeprefix("unet."))
    torch.testing.assert_close(theirs.lora_A["default_0"].weight, delta.down, check_dtype=False)


def test_guidance_sets_the_guidance_alone(sdxl: Base, prompts: Path, tmp_path: Path) -> None:
    finished = distilled(KINDS[0], sdxl, prompts, tmp_path / "run", steps=1)[-1]
    assert isinstance(finished, Finished)
    sampling = speed_sampling(finished.path)
    assert sampling
    assert sampling.fields() == {"guidance": 1.0}


def test_adapters_are_merged_into_teacher_and_student(
    sdxl: Base, prompts: Path, tmp_path: Path
) -> None:
    """Another teacher; the base comes back; the run knows the files that it had."""
    first = distilled(KINDS[1], sdxl, prompts, tmp_path / "first", lr=0.05, steps=2)[-1]
    assert isinstance(first, Finished)
    loss = {}
    for name, strength in (("plain", None), ("mixed", 0.7)):
        adapters = [] if strength is None else [(first.path, strength)]
        with assert_lent(sdxl):
            events = list(
                trainers.distill(
                    KINDS[0],
                    sdxl,
                    prompts=prompts,
                    adapters=adapters,
                    run=tmp_path / name,
                    draw=lambda prompt, seed: compose.render(sdxl, Shot(prompt, steps=1)),
                    **{**SHORT, "steps": 1},
                )
            )
        loss[name] = next(event.loss for event in events if isinstance(event, Step))
    assert loss["plain"] != pytest.approx(loss["mixed"], rel=1e-3)
    request = read_request(tmp_path / "mixed")
    assert request.adapters == ((str(first.path), 0.7),)
    (tmp_path / "mixed" / "adapter.safetensors").unlink()
    first.path.write_bytes((tmp_path / "plain" / "adapter.safetensors").read_bytes())
    with pytest.raises(BadInput, match="no longer those"):
        trainers.resume(tmp_path / "mixed", sdxl)


def test_a_merged_t_lora_is_said_to_act_whole(sdxl: Base, prompts: Path, tmp_path: Path) -> None:
    deltas = new_deltas(TLoRA(rank=2), sdxl, generator=torch.Generator())
    timed = Adapter(deltas=deltas, kind="tlora", family="sdxl", rank_schedule=RankSchedule(1, 2))
    pair = timed.save(tmp_path / "timed.safetensors"), 1.0
    run = trainers.distill(
        KINDS[0], sdxl, prompts=prompts, adapters=[pair], run=tmp_path / "run", **SHORT
    )
    started = next(run)
    run.close()
    assert isinstance(started, Started)
    assert "timed.safetensors is a T-LoRA: merged, all its ranks act" in started.remarks[0]


def test_what_it_cannot_learn_from_is_refused(sdxl: Base, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="prompts are missing"):
        trainers.distill(Guidance(), sdxl)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(BadInput, match="no line with a prompt"):
        trainers.distill(Guidance(), sdxl, prompts=empty)
    with pytest.raises(BadInput, match="there is no"):
        trainers.distill(Guidance(), sdxl, prompts=tmp_path / "none.txt")
    with pytest.raises(BadInput, match="flip is not used by guidance"):
        trainers.distill(Guidance(), sdxl, prompts=prompts, flip=True)
    with pytest.raises(BadInput, match="guidance"):
        Guidance(guidance=1.0)


def test_prompts_are_a_folder_s_captions_too(tmp_path: Path) -> None:
    from studio.dataset.prompts import read_prompts

    (tmp_path / "a.txt").write_text("a cat\n")
    (tmp_path / "b.caption").write_text("a dog")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "c.png", "text": "a fox"}\n')
    assert set(read_prompts(tmp_path, "any")) == {"a cat", "a dog", "a fox"}
