"""The text that A1111 puts into its PNGs, and other programs after it, read as a recipe of ours.

Its form is prompt, "Negative prompt: ...", then one line of "Key: value" pairs, values quoted as
JSON where they hold a comma or a colon; adapters stand in the prompt as <lora:NAME:STRENGTH>.
"""

import json
import re
from pathlib import Path

from PIL import Image

from studio.errors import PICTURE_ERRORS, BadInput
from studio.requests.shot import A1111_SAMPLERS, read_recipe

__all__ = ["recipe_from_picture", "recipe_from_text"]

LORA = re.compile(r"<(?:lora|lyco):([^:<>]+)(?::([-+.\d]+))?[^<>]*>")
PAIR = re.compile(r'\s*([\w /-]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
SIZE = re.compile(r"(\d+)\s*x\s*(\d+)")
# How its samplers begin, for those that are ours under another schedule of noise.
BEGINNINGS = {"Euler": "euler", "DDIM": "ddim", "DPM++ 2M": "dpmpp_2m", "UniPC": "unipc"}
OTHERS = ("Euler a", "DPM++ 2M SDE")  # begin alike and are others


def recipe_from_picture(path: str | Path) -> tuple[dict[str, object], list[str]]:
    """How a PNG was made: its own recipe, or what the text of another program tells.

    Beside it a sentence for what could not be taken over. BadInput where it tells nothing.
    """
    try:
        with Image.open(path) as picture:
            own, text = picture.info.get("studio"), picture.info.get("parameters")
    except (*PICTURE_ERRORS, Image.DecompressionBombError) as error:
        raise BadInput("That can't be read as a picture.") from error
    if own is not None:
        return read_recipe(path), []
    if not isinstance(text, str) or not text.strip():
        raise BadInput(
            "That picture does not tell how it was made: programs that pass pictures on often "
            "strip it out. Use the file as it was saved."
        )
    return recipe_from_text(text)


def recipe_from_text(text: str) -> tuple[dict[str, object], list[str]]:
    """The same of the text alone."""
    prompt, negative, told = _parts(text)
    prompt, adapters = _adapters(prompt)
    recipe: dict[str, object] = {"prompt": prompt, "negative": negative, "adapters": adapters}
    amiss = []
    for key, name, kind in (("Steps", "steps", int), ("Seed", "seed", int)):
        if told.get(key, "").isdecimal():
            recipe[name] = kind(told[key])
    for key, name in (("CFG scale", "guidance"), ("Denoising strength", "denoise")):
        if re.fullmatch(r"\d+(\.\d+)?", told.get(key, "")):
            recipe[name] = float(told[key])
    if size := SIZE.fullmatch(told.get("Size", "")):
        recipe["width"], recipe["height"] = int(size[1]), int(size[2])
    if sampler := told.get("Sampler"):
        recipe["scheduler"] = _scheduler(sampler)
        if recipe["scheduler"] is None:
            amiss.append(f"Its sampler, {sampler}, is not here: the base's own takes its place.")
    if model := told.get("Model"):
        recipe["base"] = {"source": model, "name": model}
    return recipe, amiss


def _parts(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and the pairs of the last line."""
    lines = text.strip().splitlines()
    pairs = _pairs(lines[-1]) if lines else {}
    if "Steps" in pairs or len(pairs) > 2:
        lines = lines[:-1]
    else:
        pairs = {}
    before, _, after = "\n".join(lines).partition("Negative prompt:")
    return before.strip(), after.strip(), pairs


def _pairs(line: str) -> dict[str, str]:
    found = {}
    for key, value in PAIR.findall(line):
        if value.startswith('"'):
            try:
                value = str(json.loads(value))
            except ValueError:
                continue
        found[key.strip()] = value.strip()
    return found


def _adapters(prompt: str) -> tuple[str, list[dict[str, object]]]:
    """The prompt without its adapters, and those."""
    found: list[dict[str, object]] = []
    for name, strength in LORA.findall(prompt):
        try:
            found.append({"name": name, "strength": float(strength or 1)})
        except ValueError:
            continue
    plain = re.sub(r"\s*,\s*(?=,|$)", "", LORA.sub("", prompt))
    return " ".join(plain.split()), found


def _scheduler(sampler: str) -> str | None:
    exact = {name: ours for ours, name in A1111_SAMPLERS.items()}
    if sampler in exact:
        return exact[sampler]
    if sampler.startswith(OTHERS):
        return None
    return next((ours for name, ours in BEGINNINGS.items() if sampler.startswith(f"{name} ")), None)
