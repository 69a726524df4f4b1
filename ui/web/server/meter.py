"""How busy this machine is: processor, memory, and the GPU where there is one.

No PyTorch here, which would take the server hundreds of megabytes: NVIDIA's own tool is asked, in
the background, and only while a page is open.
"""

import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, replace

import psutil

EVERY = 2.0  # seconds between two looks; what is asked in between gets the same answer
GPU_EVERY = 10.0  # the same for the GPU, as its tool takes a tenth of a second
QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
GIB = 2**30


@dataclass(frozen=True)
class Load:
    """Percent of the processor; bytes of memory. gpu: percent, bytes used and in all, of the first
    GPU; None where there is none.
    """

    processor: float
    used: int
    memory: int
    gpu: tuple[float, int, int] | None = None


class Meter:
    """One for a server, whatever the number of its pages."""

    def __init__(self) -> None:
        self._lock, self._looked, self._asked = threading.Lock(), 0.0, 0.0
        self._tool = shutil.which("nvidia-smi")
        self._load = _look(None)

    def load(self) -> Load:
        """The load of the last seconds, at most EVERY old."""
        with self._lock:
            now = time.monotonic()
            if now >= self._looked + EVERY:
                self._looked, self._load = now, _look(self._load.gpu)
            if self._tool and now >= self._asked + GPU_EVERY:
                self._asked = now
                threading.Thread(target=self._ask_gpu, args=(self._tool,), daemon=True).start()
            return self._load

    def _ask_gpu(self, tool: str) -> None:
        """Ask for the GPU's load, for the next look."""
        try:
            said = subprocess.run(
                [tool, *QUERY], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            gpu = read_gpu(said)
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            gpu = None
        with self._lock:
            self._load = replace(self._load, gpu=gpu)


def read_gpu(said: str) -> tuple[float, int, int]:
    """The first line of nvidia-smi: percent, and MiB used and in all, as bytes."""
    percent, used, whole = map(float, said.splitlines()[0].split(","))
    return percent, int(used) << 20, int(whole) << 20


def meter_words(load: Load) -> str:
    """Such as "CPU 12 % · memory 3.1 of 15.6 GB"."""
    words = [f"CPU {load.processor:.0f} %"]
    if load.gpu:
        percent, used, whole = load.gpu
        words.append(f"GPU {percent:.0f} %, {used / GIB:.1f} of {whole / GIB:.1f} GB")
    words.append(f"memory {load.used / GIB:.1f} of {load.memory / GIB:.1f} GB")
    return " · ".join(words)


def _look(gpu: tuple[float, int, int] | None) -> Load:
    memory = psutil.virtual_memory()
    return Load(psutil.cpu_percent(), memory.total - memory.available, memory.total, gpu)
