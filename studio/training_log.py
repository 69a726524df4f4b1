"""log.jsonl, the log of a training: one line of JSON for each step."""

import math
import sys
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from studio.json_value import parse_json

LOG_FILE = "log.jsonl"  # in a run's folder


@dataclass(frozen=True)
class TrainingLog:
    """The readable lines of a log.

    lines: each has a step's number, loss, lr and seconds, and what else the training logged.
    unreadable: number of lines left out. A power cut leaves half a line, zeros or "{}".
    """

    lines: tuple[dict[str, float], ...]
    unreadable: int

    @property
    def remark(self) -> str:
        """A sentence about the lines that cannot be read; empty where all can be."""
        if not self.unreadable:
            return ""
        lines = "1 line" if self.unreadable == 1 else f"{self.unreadable} lines"
        return f"Left out {lines} of {LOG_FILE} that cannot be read."


def parse_log(data: bytes) -> TrainingLog:
    """Read the lines of a log, or of a part of it."""
    parsed = [_parse_line(line.rstrip()) for line in BytesIO(data)]
    lines = tuple(line for line in parsed if line is not None)
    return TrainingLog(lines, unreadable=len(parsed) - len(lines))


def _parse_line(line: bytes) -> dict[str, float] | None:
    """The numbers of a step; None where the step or the loss is missing or not a number."""
    try:
        entry: Any = parse_json(line.decode(), LOG_FILE)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        return None
    loss = entry.get("loss")
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        return None
    return {sys.intern(name): value for name, value in entry.items()}  # all lines share the keys
