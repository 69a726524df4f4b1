"""Memory that modules take, and memory that is free now."""

from pathlib import Path

import torch
from torch import nn

from studio.bases.device import free_on_gpu, has_own_memory

# Bytes that a process takes at first: Python with PyTorch and diffusers on a CPU, the CUDA context
# on a GPU.
PROCESS = {"cpu": 500e6, "cuda": 500e6}
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers."""
    return sum(t.numel() * t.itemsize for t in (*module.parameters(), *module.buffers()))


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process can still take on a device; None where the system does not say.

    On a CPU the limit of a container counts too.
    """
    if has_own_memory(device):
        return free_on_gpu(device)
    lines = MEMINFO.read_text().splitlines() if MEMINFO.exists() else []
    free = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    machine = None if free is None else int(free) * 1024
    limits = [free for free in (machine, _left_in_container()) if free is not None]
    return min(limits, default=None)


def format_bytes(size: float) -> str:
    """Bytes in words, such as "3.1 GB"."""
    return f"{size / 1e9:.1f} GB"


def _left_in_container() -> int | None:
    """Bytes below the limit of this control group (version 2); None where there is no limit.

    Memory that only caches files counts as free, since the system gives it up when needed.
    """
    try:
        most = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        stat = (CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return None
    cached = next((int(line.split()[1]) for line in stat if line.startswith("inactive_file ")), 0)
    return None if most == "max" else max(0, int(most) - used + cached)
