"""Say how long a new job would wait for other jobs."""

from collections.abc import Sequence

from studio.duration import format_duration
from studio.queue.job import Kind
from studio.workspace import Workspace
from ui.shared.queue_requests import unfinished


def waiting(space: Workspace, kinds: Sequence[Kind]) -> str:
    """A sentence such as " Waits about 3 min for 1 other job first."; "" where nothing is ahead.

    kinds: the kinds of jobs that are drawn or trained by the same worker as the new job.
    """
    ahead = unfinished(space, kinds)
    if not ahead:
        return ""
    jobs = f"{len(ahead)} other job{'s' * (len(ahead) > 1)}"
    left = [job.seconds_left for job in ahead if job.seconds_left is not None]
    if len(left) < len(ahead):
        return f" Waits for {jobs} first."
    return f" Waits about {format_duration(sum(left))} for {jobs} first."
