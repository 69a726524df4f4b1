"""A training as HTML: its state and figures, its samples, and its label in the list."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeVar, cast

from studio.duration import format_duration
from studio.queue.job import Job
from studio.workspace import Sample
from ui.web.frontend import KIND_NAMES, template
from ui.web.lightbox import Facts

MOST_SAMPLES = 10  # pictures in a row
T = TypeVar("T")


def run_label(job: Job) -> str:
    """A training's label in the list."""
    state = "stopping" if job.stopping else {"queued": "waiting"}.get(job.state, job.state)
    return f"{job.title} · {_kind_name(job)} · {state}"


def run_header(job: Job, *, ahead: int) -> str:
    """The state and figures of a training. ahead: how many trainings come before it."""
    percent = 100 * job.step / job.total if job.total else 0.0
    return template("train/run.html").render(
        job=job, state=_state(job, ahead), percent=percent, facts=_facts(job)
    )


def sample_rows(samples: Sequence[Sample], job: Job) -> str:
    """Sample pictures, a row for each prompt and seed, its steps from left to right."""
    ordered = sorted(samples, key=lambda sample: (sample.number, sample.step))
    prompts = sample_prompts_of(job)
    rows = [
        (prompts[seed] if seed < len(prompts) else "", evenly_spaced(list(row), MOST_SAMPLES))
        for seed, row in groupby(ordered, key=lambda sample: sample.number)
    ]
    return template("train/samples.html").render(
        rows=rows, mix=f"{_adapter_name(job)} 1", facts=partial(_sample_facts, job)
    )


def _sample_facts(job: Job, sample: Sample, prompt: str) -> Facts:
    return [
        ("Prompt", prompt),
        ("Adapter", _adapter_name(job)),
        ("Adapter type", _kind_name(job)),
        ("Step", f"{sample.step} of {job.total}"),
        ("Strength", "1"),
        ("Seed", str(sample.number)),
        ("Base", str(job.arguments["base"])),
    ]


def _adapter_name(job: Job) -> str:
    return str(job.arguments.get("name") or job.title)


def sample_prompts_of(job: Job) -> tuple[str, ...]:
    """The prompts of a training's sample pictures."""
    arguments = cast("Any", job.arguments)
    trigger = arguments["trigger"] or job.title
    return tuple(arguments["recipe"].get("sample_prompts") or (trigger,))


def evenly_spaced(items: list[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]


def _kind_name(job: Job) -> str:
    kind = str(job.arguments["kind"])
    return KIND_NAMES.get(kind, kind)


def _state(job: Job, ahead: int) -> str:
    if job.state == "queued":
        return f"{ahead} job{'s' if ahead > 1 else ''} ahead" if ahead else "Starts in a moment"
    if job.state == "running":
        phase = "" if job.phase == "training" else f", {job.phase}"
        return "Stopping after this step" if job.stopping else f"Running{phase}"
    if job.state == "done":
        return f"Done. {', '.join(job.results)} is in the library."
    at = f" at step {job.step}" if job.step else ""
    why = f": {job.error}" if job.state == "stopped" and job.error else ""
    then = "goes on from there" if at else "starts it again"
    if at and (why or job.state == "failed"):  # no checkpoint was written at the end
        then = "goes on from its last checkpoint, if it has one"
    return f"{job.state.capitalize()}{at}{why}. Resume {then}."


def _facts(job: Job) -> list[str]:
    """Kind, base, step, loss, speed and times, as far as they are known."""
    facts = [f"{_kind_name(job)} on {job.arguments['base']}"]
    if job.total:
        facts.append(f"step {job.step} of {job.total}")
    if job.loss is not None:
        facts.append(f"loss {job.loss:.4f}")
    if job.step and job.seconds:
        speed, time = job.step / job.seconds, format_duration(job.seconds)
        facts.append(f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s per step")
        facts.append(f"took {time}" if job.ended else f"{time} so far")
    if job.seconds_left is not None:
        facts.append(f"{format_duration(job.seconds_left)} left")
    return facts
