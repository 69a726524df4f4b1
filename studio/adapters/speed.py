"""Adapters that make a base fast, and the sampling that each was distilled for.

LCM-LoRA (Luo et al. 2023), TCD (Zheng et al. 2024), SDXL-Lightning (Lin et al. 2024), Hyper-SD (Ren
et al. 2024) and DMD2 (Yin et al. 2024) are plain LoRA files. They are recognised by their names or
by the layers they change, and get the sampling of their authors' model cards. Adapters that Studio
distilled have their sampling in their recipe. No PyTorch here.
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

# File names that tell nothing, as in downloads from a hub: there the folder has the name.
UNNAMED = ("pytorch_lora_weights", "adapter_model", "model")
STEPS = re.compile(r"(?<!\d)([1-9]\d?)[-_ ]?steps?\b")  # 100 and more are steps of a training
HYPER = re.compile(r"\bhyper[-_ ]?sd")
LIGHTNING = re.compile(r"\bsd(xl)?[-_ ]?lightning|\blightning\b.*\dstep")
# LCM-LoRA changes layers of all these names, all at rank 64, and nothing in the text encoders.
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

    name: of the distillation, such as "LCM-LoRA". The other fields are those of a shot. scheduler,
    steps: None: any will do. spacing: None: the sampler's default.
    """

    name: str
    scheduler: str | None = None
    spacing: str | None = None
    steps: int | None = None
    guidance: float = 1.0

    def as_json(self) -> dict[str, JSON]:
        """The fields that are not None, for an adapter's recipe."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    def fields(self, given: Collection[str] = ()) -> dict[str, object]:
        """The fields of a shot to set, without those that the user has given.

        A spacing belongs to its sampler: it is set only where the sampler is.
        """
        left_out = {*given}
        if self.scheduler is None or "scheduler" in given:
            left_out |= {"scheduler", "spacing"}
        if self.steps is None:
            left_out.add("steps")
        return {name: getattr(self, name) for name in FIELDS if name not in left_out}


def speed_sampling(file: str | Path) -> Sampling | None:
    """The sampling that an adapter's file was distilled for; None for any other adapter.

    Raises BadInput as `load_adapter` does.
    """
    path = find_adapter_file(Path(file))
    return _sampling(path, path.stat().st_mtime_ns)


def in_words(fields: Mapping[str, object]) -> str:
    """Fields of a shot in words, such as "sampler lcm, 4 steps, CFG scale 1"."""
    return ", ".join(
        WORDS[name].format(value) for name, value in fields.items() if value is not None
    )


@lru_cache(maxsize=1024)
def _sampling(path: Path, changed: int) -> Sampling | None:
    """changed: the file's time of change in ns, so that the cache reads each version once."""
    if path.is_dir():  # one folder for each component
        return None
    header = read_header(path)
    info = read_info(header.metadata, path)
    if info.kind != "unknown":  # Studio's own file: the user named it, so its name tells nothing
        return _from_recipe(info.recipe.get("sampling"))
    folder = path.parent.name if path.stem in UNNAMED else ""
    words = " ".join((folder, path.stem, info.name, str(info.recipe.get("output_name", ""))))
    return _by_name(words.lower().replace("_", "-")) or _by_targets(header, info, path)


def _from_recipe(stored: JSON) -> Sampling | None:
    """The inverse of `Sampling.as_json`; None where no shot can be drawn so."""
    if not isinstance(stored, dict):
        return None
    try:
        sampling = build(Sampling, {key: stored[key] for key in ("name", *FIELDS) if key in stored})
    except BadInput:
        return None
    return sampling if sampling.scheduler in (None, *SCHEDULERS) else None


def _by_name(words: str) -> Sampling | None:
    """words: the file's names in lower case, with hyphens for underscores."""
    stated = STEPS.search(words)
    steps = int(stated[1]) if stated else 4
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
    """LCM-LoRA under another name. A file with a recipe or triggers is somebody's training."""
    if info.recipe or info.triggers:
        return None
    contents = survey(header, path)
    return (
        Sampling("LCM-LoRA, by its layers", "lcm", None, 4) if _is_lcm(header, contents) else None
    )


def _is_lcm(header: Header, contents: Contents) -> bool:
    layers = contents.layers
    return (
        bool(layers)
        and all(layer.startswith("unet.") for layer in layers)
        and set(contents.forms.values()) == {"lora"}
        and all(any(layer.endswith(f".{target}") for layer in layers) for target in LCM_TARGETS)
        and all(header.shapes[leaves["lora_B.weight"]][1] == LCM_RANK for leaves in layers.values())
    )
