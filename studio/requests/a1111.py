"""The `parameters` text that A1111 and similar programs write into their PNGs.

The text is the prompt, then "Negative prompt: ...", then one line of "Key: value" pairs. A value
with a comma or a colon is quoted as JSON. Adapters are written in the prompt as
<lora:NAME:STRENGTH>. Studio adds keys of its own after those that A1111 knows.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.bases.samplers import SPACINGS_OF
from studio.errors import BadInput
from studio.requests.adapter_tags import read_adapter_tag
from studio.requests.prompt_syntax import PromptSyntax, escape, read_prompt, split_adapter_tags
from studio.requests.resolved_shot import ResolvedShot
from studio.requests.shot import method_name
from studio.requests.shot_recipe import adapter_to_dict, versions

if TYPE_CHECKING:
    from studio.bases.base import Base

A1111_SAMPLERS = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "unipc": "UniPC",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "lcm": "LCM",
    "tcd": "TCD",
}
A1111_SPACINGS = {
    "leading": "DDIM",
    "trailing": "Simple",
    "sgm_uniform": "SGM Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
}

LATENT = "Latent"  # A1111's upscaler that enlarges latents

# A pair begins at the line's start or at a comma, so that a long line is not scanned repeatedly.
PAIR = re.compile(r'(?:^|,)\s*+([\w /-]++):\s*+("(?:\\.|[^"\\])*+"|[^,]*+)(?=,|$)')
WHOLE_NUMBER = r"[0-9]{1,20}"
NUMBER = rf"{WHOLE_NUMBER}(\.[0-9]{{1,20}})?"
SIZE = re.compile(rf"({WHOLE_NUMBER})\s*x\s*({WHOLE_NUMBER})")
WHOLE_NUMBERS = {"Steps": "steps", "Seed": "seed", "Clip skip": "clip_skip"}
NUMBERS = {"CFG scale": "guidance", "Denoising strength": "denoise"}
# Settings that are ignored without a word: they don't change a picture, or name files by hash.
NO_SETTINGS = re.compile(r"Version|User|Hashes|.* hash(es)?")
LONGEST = 40  # characters of a setting's name, and of its value
MOST_NAMED = 10  # how many left-out settings one sentence names
OWN = ("", "Automatic")  # schedule types that mean the sampler's own spacing
SAMPLERS = {sampler: scheduler for scheduler, sampler in A1111_SAMPLERS.items()}
SCHEDULE_TYPES = {schedule: spacing for spacing, schedule in A1111_SPACINGS.items()}


def parameters_text(resolved: ResolvedShot, base: "Base") -> str:
    """The text for a picture that Studio has made."""
    shot = resolved.shot
    own = type(base.scheduler(None)).__name__
    pairs = {
        "Steps": f"{shot.steps}",
        "Sampler": own if shot.scheduler is None else A1111_SAMPLERS[shot.scheduler],
        "CFG scale": f"{shot.guidance:g}",
        "Seed": f"{shot.seed}",
        "Size": f"{resolved.width}x{resolved.height}",
        "Model hash": base.fingerprint()[:10],
        "Model": base.name,
    }
    if shot.spacing is not None:
        pairs["Schedule type"] = A1111_SPACINGS[shot.spacing]
    if shot.clip_skip is not None:
        pairs["Clip skip"] = f"{shot.clip_skip}"
    if shot.init_image is not None:
        pairs["Denoising strength"] = f"{shot.denoise:g}"
    elif shot.second_pass is not None:  # A1111 has one key for both strengths
        pairs["Denoising strength"] = f"{shot.second_denoise:g}"
    if shot.second_pass is not None:
        pairs |= {"Hires upscale": f"{shot.second_pass:g}", "Hires upscaler": LATENT}
    if resolved.adapters:
        entries = [adapter_to_dict(*pair) for pair in resolved.adapters]
        hashes = (f"{entry['name']}: {str(entry['sha256'])[:12]}" for entry in entries)
        strengths = (f"{entry['name']}: {entry['strength']:g}" for entry in entries)
        pairs["Lora hashes"] = ", ".join(hashes)
        pairs["Adapters"] = ", ".join(strengths)
        pairs["Method"] = method_name(shot.method, shot.regions)
    if shot.avoid:
        pairs["Avoid"] = " + ".join(shot.avoid)
    pairs["Version"] = f"Studio {versions()['studio']}"
    # Other programs read brackets as weights, whatever this shot's syntax is.
    prompt, negative = (
        text if shot.syntax == "a1111" else escape(text) for text in (shot.prompt, shot.negative)
    )
    lines = [prompt]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items()))
    return "\n".join(lines)


def parse_parameters(text: str) -> tuple[dict[str, object], list[str]]:
    """The fields of a recipe that the text gives, and sentences on what Studio leaves out."""
    prompt, negative, pairs = _split(text)
    problems: list[str] = []
    prompt, adapters = _extract_adapters(prompt, problems)
    recipe: dict[str, object] = {"prompt": prompt, "negative": negative, "adapters": adapters}
    recipe["syntax"] = _syntax((prompt, negative), problems)
    for key, field in WHOLE_NUMBERS.items():
        if re.fullmatch(WHOLE_NUMBER, pairs.get(key, "")):
            recipe[field] = int(pairs.pop(key))
    for key, field in NUMBERS.items():
        if re.fullmatch(NUMBER, pairs.get(key, "")):
            recipe[field] = float(pairs.pop(key))
    if size := SIZE.fullmatch(pairs.get("Size", "")):
        recipe["width"], recipe["height"] = int(size[1]), int(size[2])
        del pairs["Size"]
    if model := pairs.pop("Model", ""):
        recipe["base"] = {"source": model, "name": model}
    if sampler := pairs.pop("Sampler", ""):
        sampling = _sampling(sampler, pairs.pop("Schedule type", ""), problems)
        recipe["scheduler"], recipe["spacing"] = sampling
    _take_second_pass(recipe, pairs, problems)
    if "denoise" in recipe:
        problems.append("It was started from another picture, which its text does not hold.")
    if left_out := [key for key in pairs if not NO_SETTINGS.fullmatch(key)]:
        named = [f"{key[:LONGEST]} {pairs[key][:LONGEST]}" for key in left_out[:MOST_NAMED]]
        more = f" and {len(left_out) - MOST_NAMED} more" if len(left_out) > MOST_NAMED else ""
        problems.append(f"Left out, since Studio can't use them: {', '.join(named)}{more}.")
    return recipe, problems


def _take_second_pass(
    recipe: dict[str, object], pairs: dict[str, str], problems: list[str]
) -> None:
    """Take the fields of a second pass, A1111's "Hires. fix". Studio's enlarges the latents."""
    factor = pairs.get("Hires upscale", "")
    if not re.fullmatch(NUMBER, factor) or float(factor) <= 1:
        return
    recipe["second_pass"] = float(pairs.pop("Hires upscale"))
    if "denoise" in recipe:
        recipe["second_denoise"] = recipe.pop("denoise")
    upscaler = pairs.pop("Hires upscaler", LATENT)
    if upscaler != LATENT:
        problems.append(f"Studio has no upscaler {upscaler}: latents are enlarged instead.")


def _split(text: str) -> tuple[str, str, dict[str, str]]:
    """The prompt, the negative prompt and the pairs of the last line."""
    lines = text.strip().splitlines()
    pairs = _parse_pairs(lines[-1]) if lines else {}
    if "Steps" in pairs or len(pairs) > 2:
        lines = lines[:-1]
    else:  # the last line belongs to the prompt
        pairs = {}
    prompt, *negative = re.split("^Negative prompt:", "\n".join(lines), maxsplit=1, flags=re.M)
    return prompt.strip(), "".join(negative).strip(), pairs


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


def _extract_adapters(prompt: str, problems: list[str]) -> tuple[str, list[dict[str, object]]]:
    """The prompt without its <lora:...> tags, and the adapters that they name."""
    plain, tags = split_adapter_tags(prompt)
    adapters: list[dict[str, object]] = []
    for tag in tags:
        try:
            name, strength = read_adapter_tag(tag)
        except BadInput as error:
            problems.append(f"{error}.")
            continue
        name, _, half = name.partition(":")
        entry: dict[str, object] = {"name": name, "strength": strength}
        adapters.append(entry | {"half": half} if half else entry)
    return plain, adapters


def _syntax(texts: Sequence[str], problems: list[str]) -> PromptSyntax:
    """A1111's syntax; "plain", with a sentence in `problems`, where Studio can't read the marks."""
    try:
        for text in texts:
            read_prompt(text, "a1111")
    except BadInput as error:
        problems.append(f"{error}. The prompts are read as plain words.")
        return "plain"
    return "a1111"


def _sampling(sampler: str, schedule: str, problems: list[str]) -> tuple[str | None, str | None]:
    """Studio's scheduler and spacing; None where it has none, with a sentence in `problems`.

    Older texts have both in one name, such as "DPM++ 2M Karras".
    """
    for name in SCHEDULE_TYPES:
        if sampler not in SAMPLERS and sampler.endswith(f" {name}"):
            sampler, schedule = sampler.removesuffix(f" {name}"), name
    scheduler, spacing = SAMPLERS.get(sampler), SCHEDULE_TYPES.get(schedule)
    if scheduler is None:
        problems.append(f"Studio has no sampler {sampler}: the base's own is used instead.")
        return None, None
    if spacing not in (None, *SPACINGS_OF[scheduler]) or (spacing is None and schedule not in OWN):
        problems.append(f"Studio has no schedule {schedule} for {sampler}: the base's own is used.")
        return scheduler, None
    return scheduler, spacing


def _quoted(value: str) -> str:
    """A1111's rule: JSON quotes around a value that holds a separator."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value
