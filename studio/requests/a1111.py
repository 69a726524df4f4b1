"""Reads the `parameters` text that A1111 and similar programs write into their PNGs.

The text is the prompt, then "Negative prompt: ...", then one line of "Key: value" pairs. A value
that holds a comma or a colon is quoted as JSON. Adapters stand in the prompt as
<lora:NAME:STRENGTH>. `shot.parameters_text` writes the same format.
"""

import json
import re

from studio.requests.shot import A1111_SAMPLERS

__all__ = ["parse_parameters"]

LORA = re.compile(r"<(?:lora|lyco):([^:<>]+)(?::([-+.\d]+))?[^<>]*>")
PAIR = re.compile(r'\s*([\w /-]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
SIZE = re.compile(r"(\d+)\s*x\s*(\d+)")
WHOLE_NUMBERS = {"Steps": "steps", "Seed": "seed"}
NUMBERS = {"CFG scale": "guidance", "Denoising strength": "denoise"}
SCHEDULERS = {sampler: scheduler for scheduler, sampler in A1111_SAMPLERS.items()}
UNSUPPORTED = ("Euler a", "DPM++ 2M SDE")  # they only begin like a sampler that we have


def parse_parameters(text: str) -> tuple[dict[str, object], list[str]]:
    """The fields of a recipe that the text gives, and a sentence for each that we don't have."""
    prompt, negative, pairs = _split(text)
    prompt, adapters = _extract_adapters(prompt)
    recipe: dict[str, object] = {"prompt": prompt, "negative": negative, "adapters": adapters}
    for key, field in WHOLE_NUMBERS.items():
        if pairs.get(key, "").isdecimal():
            recipe[field] = int(pairs[key])
    for key, field in NUMBERS.items():
        if re.fullmatch(r"\d+(\.\d+)?", pairs.get(key, "")):
            recipe[field] = float(pairs[key])
    if size := SIZE.fullmatch(pairs.get("Size", "")):
        recipe["width"], recipe["height"] = int(size[1]), int(size[2])
    if model := pairs.get("Model"):
        recipe["base"] = {"source": model, "name": model}
    problems = []
    if sampler := pairs.get("Sampler"):
        recipe["scheduler"] = _scheduler(sampler)
        if recipe["scheduler"] is None:
            problems.append(f"Studio has no sampler {sampler}: the base's own is used instead.")
    return recipe, problems


def _split(text: str) -> tuple[str, str, dict[str, str]]:
    """The prompt, the negative prompt and the pairs of the last line."""
    lines = text.strip().splitlines()
    pairs = _parse_pairs(lines[-1]) if lines else {}
    if "Steps" in pairs or len(pairs) > 2:
        lines = lines[:-1]
    else:  # the last line belongs to the prompt
        pairs = {}
    prompt, _, negative = "\n".join(lines).partition("Negative prompt:")
    return prompt.strip(), negative.strip(), pairs


def _parse_pairs(line: str) -> dict[str, str]:
    pairs = {}
    for key, value in PAIR.findall(line):
        if value.startswith('"'):
            try:
                value = str(json.loads(value))
            except ValueError:
                continue
        pairs[key.strip()] = value.strip()
    return pairs


def _extract_adapters(prompt: str) -> tuple[str, list[dict[str, object]]]:
    """The prompt without its <lora:...> tags, and the adapters that they name."""
    adapters: list[dict[str, object]] = []
    for name, strength in LORA.findall(prompt):
        try:
            adapters.append({"name": name, "strength": float(strength or 1)})
        except ValueError:
            continue
    plain = re.sub(r"\s*,\s*(?=,|$)", "", LORA.sub("", prompt))
    return " ".join(plain.split()), adapters


def _scheduler(sampler: str) -> str | None:
    """Ours for a sampler such as "DPM++ 2M Karras"; None where there is none."""
    if sampler in SCHEDULERS:
        return SCHEDULERS[sampler]
    if sampler.startswith(UNSUPPORTED):
        return None
    known = (ours for name, ours in SCHEDULERS.items() if sampler.startswith(f"{name} "))
    return next(known, None)
