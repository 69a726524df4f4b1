"""A training as the page shows it: how it stands, its samples, and the list it is chosen from."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any, cast

from studio.duration import format_duration
from studio.queue.client import Job
from studio.workspace import Sample
from ui.web.server.downloads import file_url

__all__ = ["head", "label", "prompts", "samples", "spread"]

SHOWN = 10  # samples of one seed


def label(job: Job) -> str:
    """What stands for a training in a list."""
    state = "stopping" if job.stopping else {"queued": "waiting"}.get(job.state, job.state)
    return f"{job.title} · {_kind(job)} · {state}"


def head(job: Job, *, before: int) -> str:
    """How a training stands, as HTML. before: how many trainings come before it, while it waits."""
    facts = " · ".join(_facts(job))
    said = _said(job, before)
    share = 100 * job.step / job.total if job.total else 0.0
    bar = (
        f'<div class="studio-bar" role="progressbar" aria-valuenow="{share:.0f}" '
        f'aria-label="{escape(job.title)}"><i style="width:{share:.1f}%"></i></div>'
        if job.state != "done"
        else ""
    )
    wrong = ""
    if job.state == "failed":
        advice = f"<br>{escape(_sentence(job.advice))}" if job.advice else ""
        wrong = f'<p role="alert">{escape(_sentence(job.error))}{advice}</p>'
    return (
        f'<div class="studio-run"><h3>{escape(job.title)}</h3><p>{escape(said)}</p>{bar}'
        f'<p class="quiet">{escape(facts)}</p>{wrong}</div>'
    )


def samples(found: Sequence[Sample], said: Sequence[str]) -> str:
    """Sample pictures, a row for each prompt and seed, its steps from left to right, as HTML."""
    rows = []
    for number, row in groupby(sorted(found, key=lambda one: (one.number, one.step)), _number):
        prompt = escape(said[number]) if number < len(said) else ""
        cells = "".join(
            f'<a href="{file_url(one.path)}" target="_blank" rel="noopener">'
            f'<img src="{file_url(one.path)}" alt="{prompt} after step {one.step}" loading="lazy">'
            f"<span>{one.step}</span></a>"
            for one in spread(list(row), SHOWN)
        )
        rows.append(
            f'<figure><figcaption class="quiet">{prompt} · seed {number}</figcaption>'
            f"<div>{cells}</div></figure>"
        )
    return f'<div class="studio-samples">{"".join(rows)}</div>' if rows else ""


def prompts(job: Job) -> tuple[str, ...]:
    """Those of its sample pictures."""
    arguments = cast("Any", job.arguments)
    return tuple(arguments["recipe"].get("sample_prompts") or (arguments["trigger"],))


def spread(items: list, most: int) -> list:
    """At most so many, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]


def _number(sample: Sample) -> int:
    return sample.number


def _kind(job: Job) -> str:
    return str(job.arguments["kind"])


def _said(job: Job, before: int) -> str:
    if job.state == "queued":
        return f"Waits for {before} before it" if before else "Starts in a moment"
    if job.state == "running":
        phase = "" if job.phase == "training" else f", {job.phase}"
        return "Stopping after this step" if job.stopping else f"Running{phase}"
    if job.state == "done":
        return f"Done: {', '.join(job.results)} is in the library"
    at = f" at step {job.step}" if job.step else ""
    return f"{'Failed' if job.state == 'failed' else 'Stopped'}{at}; it can be resumed"


def _facts(job: Job) -> list[str]:
    """Step, loss, speed and times, as far as they are known."""
    said = [f"{_kind(job)} on {job.arguments['base']}"]
    if job.total:
        said.append(f"step {job.step} of {job.total}")
    if job.loss is not None:
        said.append(f"loss {job.loss:.4f}")
    if job.step and job.seconds:
        speed = job.step / job.seconds
        said.append(f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s a step")
        said.append(f"{format_duration(job.seconds)} so far")
    if job.seconds_left is not None:
        said.append(f"{format_duration(job.seconds_left)} left")
    return said


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."
