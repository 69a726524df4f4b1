"""What do drawing and training cost on this GPU? ``python -m tests.benchmarks.gpu``

SDXL's and SD 1.5's shapes with random weights, made on the device in bf16: every method's picture,
the same under a cap of 8 GB, diffusers + peft with the same modules in the same run, LoRA training
beside peft's with the step that was estimated before, the same on a base in fp8 and in NF4, sketch,
and all kinds with and without checkpointing in three precisions. Numbers in brackets are what
PyTorch reserved.

Lines are printed and kept in --out as they are found. After --seconds no further row is begun.
"""

import argparse
import gc
import logging
import tempfile
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from tests.benchmarks.gpu.drawing import measure_drawing, measure_sketch
from tests.benchmarks.gpu.random_base import random_base
from tests.benchmarks.gpu.report import Report
from tests.benchmarks.gpu.training import measure_kinds, measure_lora


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="where they are kept")
    parser.add_argument("--seconds", type=float, default=200.0, help="to begin rows in")
    parser.add_argument("--steps", type=int, default=20, help="of a picture, and of a training")
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--tiny", action="store_true", help="miniatures, to try it on a CPU")
    asked = parser.parse_args(words)
    if asked.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here: give --device cpu --tiny to try the program")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # peft's and diffusers', on loading adapters
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
            warnings.simplefilter("ignore")
            measure(Report(asked.out, asked.device, asked.seconds), Path(scratch), asked)
    finally:
        logging.disable(level)


def measure(report: Report, scratch: Path, asked: argparse.Namespace) -> None:
    """All tables, the most wanted first."""
    tiny, kept = scratch if asked.tiny else None, {"steps": asked.steps, "tiny": asked.tiny}
    half = "fp32" if asked.tiny else "bf16"
    base = random_base("sdxl", report.device, dtype=half, tiny=tiny)
    measure_drawing(report, base, scratch, steps=asked.steps)
    measure_lora(report, base, steps=asked.steps)
    if not asked.tiny:
        measure_sketch(report, steps=25)
        measure_kinds(report, base, ("bf16",), **kept | {"steps": 4})
    for form in ("fp8", "nf4") if find_spec("bitsandbytes") else ("fp8",):
        del base
        gc.collect()
        report.reset_peak()
        base = random_base("sdxl", report.device, dtype=half, tiny=tiny, quantize=form)
        measure_lora(report, base, steps=asked.steps)
    del base
    gc.collect()
    report.reset_peak()
    base = random_base("sd15", report.device, dtype="fp32", tiny=tiny)
    precisions = ("fp32",) if report.device.type == "cpu" else ("fp32", "bf16", "fp16")
    measure_kinds(report, base, precisions, **kept | {"steps": min(4, asked.steps)})
    del base
    gc.collect()
    if not asked.tiny:
        base = random_base("sd15", report.device, dtype=half)
        measure_drawing(report, base, scratch, steps=asked.steps)


if __name__ == "__main__":
    main()
