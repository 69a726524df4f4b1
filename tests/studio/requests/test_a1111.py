"""The text of other programs' PNGs, read as a recipe."""

import pytest

from studio.requests.a1111 import parse_parameters

A1111 = """a <lora:bolt:0.7>castle, (by night:1.2)
Negative prompt: blurry, grey
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 12345, Size: 512x768, \
Model hash: abc, Model: dream, Lora hashes: "bolt: 00ff, x: 11", Version: v1.9"""


def test_parameters_of_a1111_are_read() -> None:
    recipe, problems = parse_parameters(A1111)
    assert recipe == {
        "prompt": "a castle, (by night:1.2)",
        "negative": "blurry, grey",
        "adapters": [{"name": "bolt", "strength": 0.7}],
        "steps": 20,
        "seed": 12345,
        "guidance": 7.5,
        "width": 512,
        "height": 768,
        "scheduler": "dpmpp_2m",
        "base": {"source": "dream", "name": "dream"},
    }
    assert problems == []


@pytest.mark.parametrize(
    ("sampler", "scheduler"), [("Euler", "euler"), ("Euler a", None), ("UniPC", "unipc")]
)
def test_unknown_samplers_are_named(sampler: str, scheduler: str | None) -> None:
    recipe, problems = parse_parameters(f"a cat\nSteps: 9, Sampler: {sampler}, Seed: 1")
    assert recipe["scheduler"] == scheduler and bool(problems) == (scheduler is None)
