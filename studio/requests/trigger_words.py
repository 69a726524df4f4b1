"""Find trigger words in texts, and cut them out of prompts."""

import re
from typing import TYPE_CHECKING

from studio.requests.prompt_syntax import escape

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter


def says(prompt: str, words: str) -> bool:
    """Whether a text contains these words: whole words, in this order, in any case."""
    return any(re.search(pattern, prompt, re.IGNORECASE) for pattern in _patterns(words))


def without(prompt: str, words: str) -> str:
    """The prompt with every occurrence of these words cut out."""
    for pattern in _patterns(words):
        prompt = re.sub(pattern, "", prompt, flags=re.IGNORECASE)
    return prompt


def said_trigger(adapter: "Adapter", prompt: str) -> str | None:
    """The first of an adapter's trigger words and learned words that a prompt contains, or None."""
    known = (*adapter.triggers, *adapter.embeddings)
    return next((words for words in known if says(prompt, words)), None)


def unsaid(adapter: "Adapter") -> str:
    """A clause for messages: that the prompt doesn't say the adapter's trigger words."""
    name = adapter.name or str(adapter.path or adapter.kind)
    known = " or ".join(map(repr, (*adapter.triggers, *adapter.embeddings)))
    return f"the prompt does not say the trigger words of {name}, {known or 'which are not known'}"


def _patterns(words: str) -> tuple[str, str]:
    """Regular expressions for the words themselves, and with their brackets escaped."""
    plain, escaped = (re.escape(text) for text in (words, escape(words)))
    return rf"(?<!\w){plain}(?!\w)", rf"(?<!\w){escaped}(?!\w)"
