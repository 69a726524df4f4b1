"""What is said of the jobs that a new one would wait for."""

from collections.abc import Sequence

from studio.duration import format_duration
from studio.queue.client import list_jobs
from studio.queue.job import UNFINISHED, Kind
from studio.workspace import Workspace


def waiting(space: Workspace, kinds: Sequence[Kind]) -> str:
    """Such as " Waits about 3 min for 1 other job first."; "" where nothing is ahead.

    kinds: of the jobs that it would wait for.
    """
    ahead = list_jobs(space, states=UNFINISHED, kinds=kinds)
    if not ahead:
        return ""
    jobs = f"{len(ahead)} other job{'s' * (len(ahead) > 1)}"
    left = [job.seconds_left for job in ahead if job.seconds_left is not None]
    if len(left) < len(ahead):
        return f" Waits for {jobs} first."
    return f" Waits about {format_duration(sum(left))} for {jobs} first."
