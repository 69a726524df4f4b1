"""Which adapters are mixed, and their triggers in the prompt."""

from collections.abc import Sequence
from dataclasses import replace

from studio.errors import BadInput
from studio.workspace import AdapterFile
from ui.web.mix.settings import EXAMPLES, MOST, Picked

__all__ = ["pick", "put_back"]


def pick(
    picked: Sequence[Picked], prompt: str, adapter: AdapterFile
) -> tuple[tuple[Picked, ...], str]:
    """One more adapter, and the prompt with its trigger in it.

    The same file may be picked twice, as the two halves of a B-LoRA. BadInput for one too many.
    """
    if len(picked) == MOST:
        raise BadInput(f"{MOST} adapters are the most that the page mixes: take one out first.")
    trigger = adapter.triggers[0] if adapter.triggers else ""
    after = with_trigger(prompt, trigger)
    written = (prompt, after) if after != prompt else None
    return (*picked, Picked(adapter.name, written=written)), after


def put_back(picked: Sequence[Picked], prompt: str, place: int) -> tuple[tuple[Picked, ...], str]:
    """Without the adapter at this place, and the prompt without what picking it wrote there.

    What the user has changed of that stays; so does a trigger that another of the same name needs.
    """
    gone = picked[place]
    left = tuple(one for at, one in enumerate(picked) if at != place)
    twin = next((at for at, one in enumerate(left) if one.name == gone.name), None)
    if gone.written is None:
        return left, prompt
    if twin is not None:  # who is left answers for what was written
        kept = replace(left[twin], written=left[twin].written or gone.written)
        return (*left[:twin], kept, *left[twin + 1 :]), prompt
    before, after = gone.written
    added = after.removeprefix(before)
    if prompt == after:
        return left, before
    if after == f"{before}{added}" and added.strip(", ") and prompt.count(added) == 1:
        return left, prompt.replace(added, "")
    return left, prompt


def with_trigger(prompt: str, trigger: str) -> str:
    """The prompt that says the trigger too.

    It comes behind what is there, but takes the place of an example of the page's own, unless it
    is of a style, which wants something to be drawn in it.
    """
    if not trigger or trigger.lower() in prompt.lower():
        return prompt
    own = prompt.strip() in EXAMPLES and "style" not in trigger.lower()
    if own or not prompt.strip():
        return trigger
    return f"{prompt.rstrip(' ,')}, {trigger}"
