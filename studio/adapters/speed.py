"""Adapters that make a base fast, and the sampling that each was distilled for.

LCM-LoRA (Luo et al. 2023), TCD (Zheng et al. 2024), SDXL-Lightning (Lin et al. 2024), Hyper-SD (Ren
et al. 2024) and DMD2 (Yin et al. 2024) are plain LoRA files. They are recognised by their names, or
by what they change: sampling is that of their authors' model cards. Those that Studio distilled say
it in their recipe. No PyTorch here.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from studio.adapters.adapter_header import find_adapter_file
from studio.adapters.formats.metadata import AdapterInfo, read_info
from studio.adapters.formats.survey import Contents, survey
from studio.adapters.safetensors_header import Header, read_header
from studio.bases.samplers import SCHEDULERS
from studio.errors import BadInput
from studio.json_value import JSON
from studio.requests.validation import build

# Files that are named for what they are only by their folder, as downloads from a hub.
UNNAMED = ("pytorch_lora_weights", "adapter_model", "model")
STEPS = re.compile(r"(?<!\d)([1-9]\d?)[-_ ]?steps?\b")  # more are those of a training
HYPER = re.compile(r"\bhyper[-_ ]?sd")
LIGHTNING = re.compile(r"\bsd(xl)?[-_ ]?lightning|\blightning\b.*\dstep")
# LCM-LoRA's targets: of every kind one, all of rank 64, and nothing in the text encoders.
LCM_TARGETS = (
    *("to_q", "to_out.0", "proj_in", "ff.net.0.proj"),
    *("conv1", "conv_shortcut", "time_emb_proj", "conv"),
)
LCM_RANK = 64
FIELDS = ("scheduler", "spacing", "steps", "guidance")  # of a shot
WORDS = {
    "scheduler": "sampler {}",
    "spacing": "spacing {}",
    "steps": "{} steps",
    "guidance": "CFG scale {:g}",
}


@dataclass(frozen=True)
class Sampling:
    """How to draw with a speed adapter.

    name: of the distillation. The others: fields of a shot, as it has them; steps None: any number.
    """

    name: str
    scheduler: str | None = None
    spacing: str | None = None
    steps: int | None = None
    guidance: float = 1.0

    def as_json(self) -> dict[str, JSON]:
        """The fields that are set, as an adapter's recipe has them."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    def fields(self, given: Collection[str] = ()) -> dict[str, object]:
        """The fields of a shot to set, but for those that the user has given.

        A spacing goes with its sampler, which may be any.
        """
        left_out = {*given}
        if self.scheduler is None or "scheduler" in given:
            left_out |= {"scheduler", "spacing"}
        if self.steps is None:
            left_out.add("steps")
        return {name: getattr(self, name) for name in FIELDS if name not in left_out}


def speed_sampling(file: str | Path) -> Sampling | None:
    """The sampling that an adapter's file was distilled for; None for any other adapter.

    Raises BadInput as `load_adapter`.
    """
    path = find_adapter_file(Path(file))
    return _sampling(path, path.stat().st_mtime_ns)


def in_words(fields: Mapping[str, object]) -> str:
    """Such as "sampler lcm, 4 steps, CFG scale 1"."""
    written = {name: value for name, value in fields.items() if value is not None}
    return ", ".join(WORDS[name].format(value) for name, value in written.items())


@lru_cache(maxsize=1024)
def _sampling(path: Path, changed: int) -> Sampling | None:
    """Reads each version of a file once."""
    if path.is_dir():  # of a folder with a folder for each component
        return None
    header = read_header(path)
    info = read_info(header.metadata, path)
    if info.kind != "unknown":  # one of Studio's own, whose name is the user's
        return _as_stored(info.recipe.get("sampling"))
    folder = path.parent.name if path.stem in UNNAMED else ""
    words = " ".join((folder, path.stem, info.name, str(info.recipe.get("output_name", ""))))
    return _by_name(words.lower().replace("_", "-")) or _by_targets(header, info, path)


def _as_stored(written: JSON) -> Sampling | None:
    """What an adapter's recipe says, see `Sampling.as_json`; None where no shot can be so."""
    if not isinstance(written, dict):
        return None
    try:
        stored = build(Sampling, {key: written[key] for key in ("name", *FIELDS) if key in written})
    except BadInput:
        return None
    return stored if stored.scheduler in (None, *SCHEDULERS) else None


def _by_name(words: str) -> Sampling | None:
    """words: in small letters, with hyphens for underscores."""
    found = STEPS.search(words)
    steps = int(found[1]) if found else 4
    if HYPER.search(words):
        if steps == 1:
            return Sampling("Hyper-SD", "tcd", None, 1)
        guided = re.search(r"\bcfg\b", words)
        return Sampling("Hyper-SD", "ddim", "trailing", steps, 5.0 if guided else 1.0)
    if re.search(r"\bdmd2?\b", words):
        return Sampling("DMD2", "lcm", "trailing", steps)
    if LIGHTNING.search(words):
        return Sampling("SDXL-Lightning", "euler", "trailing", steps)
    for word in ("lcm", "tcd"):
        if re.search(rf"\b{word}\b", words):
            return Sampling(f"{word.upper()}-LoRA", word, None, steps)
    return None


def _by_targets(header: Header, info: AdapterInfo, path: Path) -> Sampling | None:
    """LCM-LoRA under another name; files of programs that train have metadata of their own."""
    if info.recipe or info.triggers:
        return None
    contents = survey(header, path)
    return (
        Sampling("LCM-LoRA, by its layers", "lcm", None, 4) if _as_lcm(header, contents) else None
    )


def _as_lcm(header: Header, contents: Contents) -> bool:
    layers = contents.layers
    return (
        bool(layers)
        and all(layer.startswith("unet.") for layer in layers)
        and set(contents.forms.values()) == {"lora"}
        and all(any(one.endswith(f".{target}") for one in layers) for target in LCM_TARGETS)
        and all(header.shapes[leaves["lora_B.weight"]][1] == LCM_RANK for leaves in layers.values())
    )
