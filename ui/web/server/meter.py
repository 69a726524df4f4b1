"""How busy this machine is: processor, memory, and the GPU where there is one.

nvidia-smi measures the GPU, in the background and only while a page is open. PyTorch would take
hundreds of megabytes of the server's memory.
"""

import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, replace

import psutil

EVERY = 2.0  # seconds between two measurements, whatever the number of pages that ask
GPU_EVERY = 10.0  # the same for the GPU: nvidia-smi takes a tenth of a second
QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
GIB = 2**30


@dataclass(frozen=True)
class Load:
    """How busy the machine is.

    processor: percent. used, memory: bytes used, and in all. gpu: percent, bytes used and bytes in
    all of the first GPU; None where there is none.
    """

    processor: float
    used: int
    memory: int
    gpu: tuple[float, int, int] | None = None


class Meter:
    """Measures the load. All pages of a server share one meter."""

    def __init__(self) -> None:
        self._lock, self._measured, self._gpu_asked = threading.Lock(), 0.0, 0.0
        self._tool = shutil.which("nvidia-smi")
        self._load = _measure(None)

    def load(self) -> Load:
        """The load, measured no more than EVERY seconds ago; the GPU's is older."""
        with self._lock:
            now = time.monotonic()
            if now >= self._measured + EVERY:
                self._measured, self._load = now, _measure(self._load.gpu)
            if self._tool and now >= self._gpu_asked + GPU_EVERY:
                self._gpu_asked = now
                threading.Thread(target=self._ask_gpu, args=(self._tool,), daemon=True).start()
            return self._load

    def _ask_gpu(self, tool: str) -> None:
        """Ask nvidia-smi for the GPU's load, which later calls of `load` then return."""
        try:
            output = subprocess.run(
                [tool, *QUERY], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            gpu = read_gpu(output)
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            gpu = None
        with self._lock:
            self._load = replace(self._load, gpu=gpu)


def read_gpu(output: str) -> tuple[float, int, int]:
    """Percent, bytes used and bytes in all, from the first line of nvidia-smi, which is in MiB."""
    percent, used, whole = map(float, output.splitlines()[0].split(","))
    return percent, int(used) << 20, int(whole) << 20


def meter_words(load: Load) -> str:
    """The load in words, such as "CPU 12 % · memory 3.1 of 15.6 GB"."""
    words = [f"CPU {load.processor:.0f} %"]
    if load.gpu:
        percent, used, whole = load.gpu
        words.append(f"GPU {percent:.0f} %, {used / GIB:.1f} of {whole / GIB:.1f} GB")
    words.append(f"memory {load.used / GIB:.1f} of {load.memory / GIB:.1f} GB")
    return " · ".join(words)


def _measure(gpu: tuple[float, int, int] | None) -> Load:
    memory = psutil.virtual_memory()
    return Load(psutil.cpu_percent(), memory.total - memory.available, memory.total, gpu)
