"""Read peft's configuration of an adapter: the alpha and the rank of each layer.

peft writes it to `adapter_config.json` beside its own files. diffusers writes it into a file's
metadata as `lora_adapter_metadata`, with or without the component's name before each key. Sources:
peft (utils/other.py, tuners/lora/layer.py), diffusers (loaders/lora_base.py, loaders/peft.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from studio.adapters.component_folders import COMPONENTS, component_files
from studio.adapters.formats.names import PEFT_CONFIG, PEFT_PREFIX
from studio.adapters.safetensors_header import Header
from studio.errors import BadInput
from studio.files import read_text
from studio.json_value import JSON, parse_object

if TYPE_CHECKING:
    import regex

METADATA = "lora_adapter_metadata"
READ_TYPES = ("LORA", "LOHA", "LOKR", "OFT")
# Beginnings of `init_lora_weights` that change the base's weights before the training.
BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Options that make the layer compute something else than W + scale * up @ down.
OTHER_LAYERS = ("use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "coft")
OTHER_LAYERS += ("kasa_config", "monteclora_config")
PATTERN_SECONDS = 20.0  # for all patterns and layers of a file


class LayerNumbers:
    """The alpha or the rank of each layer: by the first pattern that fits, or the general number.

    peft's patterns are regular expressions that match the whole name or its end after a dot.
    A stranger's pattern may take for ever to match, so their time is limited.
    where: what messages call the configuration.
    """

    def __init__(self, general: float | None, patterns: Mapping[str, float], where: str) -> None:
        self.general, self._where = general, where
        self._patterns = [
            (_compile(pattern, where), number) for pattern, number in patterns.items()
        ]
        self._left = PATTERN_SECONDS

    def find(self, layer: str) -> float | None:
        """The number of the layer at this path in its model. Raises BadInput if it takes too long.

        None where the configuration has no number for the layer.
        """
        names = [layer]
        if layer.startswith("text_model."):  # transformers 5 names CLIP's layers without it
            names.append(layer.removeprefix("text_model."))
        for pattern, number in self._patterns:
            if any(self._fits(pattern, name) for name in names):
                return number
        return self.general

    def _fits(self, pattern: "regex.Pattern[str]", name: str) -> bool:
        began = monotonic()
        try:
            return pattern.match(name, timeout=max(self._left, 1e-3)) is not None
        except TimeoutError:
            raise BadInput(
                f"{self._where} has the pattern {pattern.pattern[8:-2]!r}, which takes too long to "
                "compare with the layers' names: write it without nested repetitions"
            ) from None
        finally:
            self._left -= monotonic() - began


@dataclass(frozen=True)
class PeftConfig:
    """peft's configuration of one component.

    neumann_terms: terms of OFT's series; None for the exact rotation.
    block_share: whether a rotation has one block for all, see Rotation.
    """

    alpha: LayerNumbers
    rank: LayerNumbers
    rank_stabilised: bool = False
    peft_type: str = ""
    neumann_terms: int | None = 5
    block_share: bool = False


def read_configs(header: Header, path: Path) -> dict[str, PeftConfig]:
    """The configurations by component, "" for one that holds for all; empty where there is none.

    Raises BadInput where a configuration cannot be read, or describes an adapter that Studio
    doesn't read.
    """
    if path.is_dir():
        parts = component_files(path).items()
        return {component: _config_beside(file) for component, file in parts}
    if any(key.startswith(PEFT_PREFIX) for key in header.shapes):
        return {"": _config_beside(path)}
    packed = header.metadata.get(METADATA, "{}")
    entries = parse_object(packed, f"{path} is damaged: its {METADATA}")
    where = f"{path}: its {METADATA}"
    return {component: _config(own, where) for component, own in _by_component(entries).items()}


def config_of(layer: str, configs: Mapping[str, PeftConfig]) -> PeftConfig:
    """The configuration of the layer's component, else the one for all, else an empty one."""
    return configs.get(layer.partition(".")[0], configs.get("", NO_CONFIG))


def _config_beside(file: Path) -> PeftConfig:
    beside = file.with_name(PEFT_CONFIG)
    if not beside.exists():
        raise BadInput(
            f"{file} was written by peft, which puts its strength into {beside.name}: "
            "keep the two in one folder"
        )
    return _config(parse_object(read_text(beside), str(beside)), str(beside))


def _by_component(entries: Mapping[str, JSON]) -> dict[str, dict[str, JSON]]:
    components: dict[str, dict[str, JSON]] = {}
    for key, value in entries.items():
        component, _, name = key.partition(".")
        if component not in COMPONENTS:
            component, name = "", key
        components.setdefault(component, {})[name] = value
    return components


def _config(entries: Mapping[str, JSON], where: str) -> PeftConfig:
    _refuse_other_changes(entries, where)
    alpha = entries.get("lora_alpha", entries.get("alpha"))
    return PeftConfig(
        alpha=_numbers(alpha, entries.get("alpha_pattern"), "alpha", where),
        rank=_numbers(entries.get("r"), entries.get("rank_pattern"), "rank", where),
        rank_stabilised=bool(entries.get("use_rslora", False)),
        peft_type=str(entries.get("peft_type") or ""),
        neumann_terms=_neumann_terms(entries, where),
        block_share=bool(entries.get("block_share", False)),
    )


def _neumann_terms(entries: Mapping[str, JSON], where: str) -> int | None:
    if entries.get("peft_type") != "OFT":
        return 5
    terms = entries.get("num_cayley_neumann_terms")
    if "use_cayley_neumann" not in entries or not isinstance(terms, int) or not 0 < terms <= 100:
        raise BadInput(f"{where} is of a version of peft's OFT that Studio doesn't read")
    return terms if entries["use_cayley_neumann"] else None


def refuse_other_changes(path: Path) -> None:
    """Raise BadInput where the peft configuration beside a file is one that Studio doesn't read."""
    for file in component_files(path).values() if path.is_dir() else (path,):
        beside = file.with_name(PEFT_CONFIG)
        if beside.exists():
            _refuse_other_changes(parse_object(read_text(beside), str(beside)), str(beside))


def _refuse_other_changes(entries: Mapping[str, JSON], where: str) -> None:
    kind = str(entries.get("peft_type") or "LORA")
    if kind not in READ_TYPES:
        raise BadInput(f"{where} is of peft's kind {kind}, which Studio doesn't read")
    start = str(entries.get("init_lora_weights") or "")
    if start.lower().startswith(BASE_CHANGING):
        raise BadInput(
            f"{where} has init_lora_weights {start!r}, with which peft changes the base's own "
            "weights before training. The file does not hold that change: write it as a plain "
            "LoRA with peft's save_pretrained(..., path_initial_model_for_weight_conversion=START)"
        )
    if other := next((option for option in OTHER_LAYERS if entries.get(option)), None):
        raise BadInput(f"{where} has {other}, which Studio doesn't read")


def _numbers(general: JSON, patterns: JSON, what: str, where: str) -> LayerNumbers:
    if not isinstance(patterns, dict | None):
        raise BadInput(f"{where} is damaged: its {what}_pattern is not a table")
    own = {
        pattern: _number(value, f"{what}_pattern", where)
        for pattern, value in (patterns or {}).items()
    }
    return LayerNumbers(None if general is None else _number(general, what, where), own, where)


def _number(value: JSON, what: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{where} is damaged: its {what} is {value!r}, which is no number")
    return float(value)


def _compile(pattern: str, where: str) -> "regex.Pattern[str]":
    import regex  # like re, but its matches can be given a time limit

    try:
        return regex.compile(rf"(.*\.)?({pattern})$")
    except regex.error as error:
        raise BadInput(f"{where} is damaged: its pattern {pattern!r}: {error}") from error


NO_CONFIG = PeftConfig(LayerNumbers(None, {}, ""), LayerNumbers(None, {}, ""))
