"""The adapters in the mix, and their trigger words in the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from studio.adapters.formats.metadata import FAMILIES
from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.requests.prompt_syntax import escape
from studio.requests.trigger_words import says
from studio.workspace import AdapterFile, Workspace, adapter_path

MOST = 6  # adapters in a mix
WHOLE = "whole"  # the choice beside "content" and "style", the halves of a B-LoRA
# Prompts that the sketch base draws well. A new adapter's trigger replaces an untouched example.
EXAMPLES = (
    "a fox in the forest, 3d render",
    "a blue cat wearing a top hat in the city at night, cartoon",
    "a pink flamingo on the beach, watercolor",
    "a rocket in space, flat illustration",
    "an owl holding a balloon in the snowy mountains, pixel art",
)


@dataclass(frozen=True)
class MixAdapter:
    """An adapter of the library in the mix.

    inserted: the prompt before and after the adapter's trigger was added to it. on: whether the
    adapter takes part in the picture. locked: its strength and half can't be changed, and it can't
    be removed.
    """

    name: str
    strength: float = 1.0
    half: str = WHOLE
    inserted: tuple[str, str] | None = None
    on: bool = True
    locked: bool = False

    def file(self, space: Workspace) -> str:
        """The path of the file, with ":content" or ":style" for a half, as `load_adapter` takes it.

        Raises BadInput where the library has no such adapter.
        """
        return adapter_path(space, self.name + ("" if self.half == WHOLE else f":{self.half}"))


def add_to_mix(
    mix: Sequence[MixAdapter], prompt: str, adapter: AdapterFile
) -> tuple[tuple[MixAdapter, ...], str]:
    """The mix with one more adapter, and the prompt with its trigger.

    An adapter may be added twice, for the two halves of a B-LoRA. Raises BadInput for more than
    MOST adapters.
    """
    trigger = adapter.triggers[0] if adapter.triggers else ""
    unchanged = not trigger or says(prompt, trigger)
    after = prompt if unchanged else _with_trigger(prompt, escape(trigger))
    inserted = (prompt, after) if after != prompt else None
    return _joined(mix, MixAdapter(adapter.name, inserted=inserted)), after


def with_tagged(mix: Sequence[MixAdapter], named: MixAdapter) -> tuple[MixAdapter, ...]:
    """The mix with an adapter that the prompt named. If it is in the mix, its strength changes.

    Raises BadInput for more than MOST adapters.
    """
    for at, adapter in enumerate(mix):
        if (adapter.name, adapter.half) == (named.name, named.half):
            return (*mix[:at], replace(adapter, strength=named.strength), *mix[at + 1 :])
    return _joined(mix, named)


def remove_from_mix(
    mix: Sequence[MixAdapter], prompt: str, place: int
) -> tuple[tuple[MixAdapter, ...], str]:
    """The mix without the adapter at this place, and the prompt without its trigger.

    The trigger stays where the user has changed it, and where the other half still needs it.
    """
    removed = mix[place]
    left = tuple(adapter for at, adapter in enumerate(mix) if at != place)
    if removed.inserted is None:
        return left, prompt
    other_half = next((at for at, other in enumerate(left) if other.name == removed.name), None)
    if other_half is not None:  # the trigger goes when the other half is removed too
        heir = left[other_half]
        heir = replace(heir, inserted=heir.inserted or removed.inserted)
        return (*left[:other_half], heir, *left[other_half + 1 :]), prompt
    return left, _without_trigger(prompt, *removed.inserted)


def misfit(adapter: AdapterFile, *, base: str, family: str) -> str:
    """Why an adapter can't be used with a base; "" where the library knows no reason.

    base: the base's source. The worker reports problems that only the layers' shapes show.
    """
    if adapter.problem:
        return adapter.problem
    name = short_name(base)
    if adapter.family and family and adapter.family != family:
        return f"made for {_family(adapter.family)}, but {name} is {_family(family)}"
    if adapter.base and adapter.base != base and {adapter.base, base} & set(BUNDLED_BASES):
        return f"made for {short_name(adapter.base)}, not for {name}"
    return ""


def short_name(base: str) -> str:
    """The last part of a base's source."""
    return base.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _joined(mix: Sequence[MixAdapter], added: MixAdapter) -> tuple[MixAdapter, ...]:
    if len(mix) == MOST:
        raise BadInput(f"A mix has at most {MOST} adapters: remove one first.")
    return (*mix, added)


def _family(name: str) -> str:
    return FAMILIES.get(name, name)


def _with_trigger(prompt: str, trigger: str) -> str:
    """The prompt with the trigger at its end.

    It replaces an untouched example, unless it contains "style": a style needs a subject.
    """
    replaceable = prompt.strip() in EXAMPLES and "style" not in trigger.lower()
    if replaceable or not prompt.strip():
        return trigger
    return f"{prompt.rstrip(' ,')}, {trigger}"


def _without_trigger(prompt: str, before: str, after: str) -> str:
    """before, after: the prompt before and after the trigger was added."""
    if prompt == after:
        return before
    added = after.removeprefix(before)
    if after == f"{before}{added}" and added.strip(", ") and prompt.count(added) == 1:
        return prompt.replace(added, "")
    return prompt
