"""The text of other programs' PNGs, read as a recipe."""

import pytest

from studio.bases.samplers import SPACINGS_OF
from studio.requests.a1111 import parse_parameters
from studio.requests.shot import Shot
from tests.studio.requests.test_shot import text_of

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
        "spacing": "karras",
        "base": {"source": "dream", "name": "dream"},
        "syntax": "a1111",
    }
    assert problems == []


def test_a_prompt_may_speak_of_negative_prompts() -> None:
    recipe, _ = parse_parameters("a sign, Negative prompt: none\nNegative prompt: grey\nSteps: 9")
    assert (recipe["prompt"], recipe["negative"]) == ("a sign, Negative prompt: none", "grey")


def sampling(line: str) -> tuple[object, object, list[str]]:
    recipe, problems = parse_parameters(f"a cat\nSteps: 9, Seed: 1, {line}")
    return recipe["scheduler"], recipe["spacing"], problems


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Sampler: Euler", ("euler", None)),
        ("Sampler: Euler a", ("euler_a", None)),
        ("Sampler: DPM++ 2M SDE Exponential", ("dpmpp_2m_sde", "exponential")),
        ("Sampler: DPM++ SDE, Schedule type: Karras", ("dpmpp_sde", "karras")),
        ("Sampler: DDIM, Schedule type: Automatic", ("ddim", None)),
        ("Sampler: DDIM, Schedule type: DDIM", ("ddim", "leading")),
        ("Sampler: LCM, Schedule type: SGM Uniform", ("lcm", "sgm_uniform")),
    ],
)
def test_samplers_are_read_with_their_schedule(line: str, expected: tuple) -> None:
    assert sampling(line) == (*expected, [])


@pytest.mark.parametrize(
    ("line", "expected", "says"),
    [
        ("Sampler: DPM++ 2M SDE Heun Karras", (None, None), "no sampler DPM++ 2M SDE Heun"),
        ("Sampler: Euler, Schedule type: Beta", ("euler", None), "no schedule Beta for Euler"),
        ("Sampler: Euler a Karras", ("euler_a", None), "no schedule Karras for Euler a"),
    ],
)
def test_samplers_and_schedules_that_are_not_there_are_named(
    line: str, expected: tuple, says: str
) -> None:
    scheduler, spacing, (problem,) = sampling(line)
    assert (scheduler, spacing) == expected and says in problem


def test_a_second_pass_is_the_high_resolution_fix() -> None:
    shot = Shot("a cat", scheduler="euler", second_pass=1.5, second_denoise=0.35)
    recipe, problems = parse_parameters(text_of(shot))
    assert (recipe["second_pass"], recipe["second_denoise"], problems) == (1.5, 0.35, [])
    other = "a\nSteps: 9, Seed: 1, Hires upscale: 2, Hires upscaler: 4x-UltraSharp"
    recipe, (problem,) = parse_parameters(other)
    assert recipe["second_pass"] == 2 and "no upscaler 4x-UltraSharp" in problem


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Hires upscale: 2, Hires steps: 10", ["Hires steps 10"]),
        (
            "Hires resize: 1024x0, Hires upscaler: Latent",
            ["resize 1024x0", "upscaler Latent"],
        ),
        ("Denoising strength: 0.5", ["started from another picture"]),
        ("Seed: -1, Variation seed: 7", ["Seed -1, Variation seed 7"]),
        ('ADetailer model: "face, 2", Model hash: 00ff', ["ADetailer model face, 2."]),
        (", ".join(f"Key {number}: 1" for number in range(30)), ["Key 9 1 and 20 more"]),
    ],
)
def test_what_is_not_used_is_named(line: str, says: list[str]) -> None:
    _, (problem,) = parse_parameters(f"a cat\nSteps: 9, {line}")
    assert all(words in problem for words in says)


@pytest.mark.parametrize("scheduler", SPACINGS_OF)
def test_every_sampler_and_spacing_is_read_as_it_is_written(scheduler: str) -> None:
    for spacing in (None, *SPACINGS_OF[scheduler]):
        shot = Shot("a cat", scheduler=scheduler, spacing=spacing)
        recipe, problems = parse_parameters(text_of(shot))
        assert (recipe["scheduler"], recipe["spacing"], problems) == (scheduler, spacing, [])
