"""The words by which prompts call adapters: whether they are said, and the prompt without them."""

import re
from typing import TYPE_CHECKING

from studio.requests.prompt_syntax import escape

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter


def says(prompt: str, words: str) -> bool:
    """Whether a prompt has these words, whole and in this order; their case does not matter."""
    return any(re.search(one, prompt, re.IGNORECASE) for one in _patterns(words))


def without(prompt: str, words: str) -> str:
    """The prompt with these words cut out wherever they are."""
    for pattern in _patterns(words):
        prompt = re.sub(pattern, "", prompt, flags=re.IGNORECASE)
    return prompt


def said_trigger(adapter: "Adapter", prompt: str) -> str | None:
    """The first of an adapter's trigger words, or of the words it learned, that a prompt says."""
    known = (*adapter.triggers, *adapter.embeddings)
    return next((one for one in known if says(prompt, one)), None)


def unsaid(adapter: "Adapter") -> str:
    """That a prompt does not say the trigger words of an adapter, which are named."""
    name = adapter.name or str(adapter.path or adapter.kind)
    known = " or ".join(repr(one) for one in (*adapter.triggers, *adapter.embeddings))
    return f"the prompt does not say the trigger words of {name}, {known or 'which are not known'}"


def _patterns(words: str) -> tuple[str, str]:
    """Both ways in which a prompt may write words."""
    plain, escaped = (re.escape(one) for one in (words, escape(words)))
    return rf"(?<!\w){plain}(?!\w)", rf"(?<!\w){escaped}(?!\w)"
