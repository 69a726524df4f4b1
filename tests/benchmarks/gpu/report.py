"""The tables as they are written, and the clock that ends them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

GB = 1e9


@dataclass
class Report:
    """Markdown tables that are printed and kept line by line, so that a part of them is kept too.

    file: is begun anew. seconds: after which no further row is begun.
    """

    file: Path
    device: torch.device
    seconds: float
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("")
        self.say(f"PyTorch {torch.__version__}, {device_name(self.device)}")

    @property
    def has_time(self) -> bool:
        """Whether another row may begin."""
        return time.monotonic() - self.begun < self.seconds

    def say(self, line: str) -> None:
        """Add a line."""
        print(line, flush=True)
        with self.file.open("a") as file:
            file.write(f"{line}\n")

    def table(self, title: str, *columns: str) -> None:
        """Begin a table."""
        self.say(f"\n{title}\n")
        self.row(*columns)
        self.row(*("---" for _ in columns))

    def row(self, *cells: str) -> None:
        """Add a row."""
        self.say(f"| {' | '.join(cells)} |")

    def skip(self, what: str) -> None:
        """Say what there was no time for."""
        self.say(f"| {what}: left out, {self.seconds:g} s are over |")

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset_peak(self) -> None:
        """From now on the peak is counted anew."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> str:
        """Allocated and reserved at the most since `reset_peak`."""
        if self.device.type != "cuda":
            return "-"
        allocated = torch.cuda.max_memory_allocated(self.device) / GB
        return f"{allocated:.1f} ({torch.cuda.max_memory_reserved(self.device) / GB:.1f}) GB"


def device_name(device: torch.device) -> str:
    """The card's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@contextmanager
def capped(device: torch.device, gigabytes: float) -> Iterator[None]:
    """Inside the block PyTorch may have no more of the device's memory than this."""
    if device.type != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * GB / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def seconds(value: float) -> str:
    """With three digits."""
    return f"{value:.3g} s"


def ratio(value: float, plain: float) -> str:
    """How many times the plain one's."""
    return f"{value / plain:.2f} x"


def median_of(values: Sequence[float], *, after: int) -> float:
    """Of those after the first so many, which are for warming up."""
    rest = sorted(values[after:] or values)
    return rest[len(rest) // 2]
