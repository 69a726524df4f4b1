"""Trigger words in texts: whether a text contains them, and a prompt without them."""

import re
from typing import TYPE_CHECKING

from studio.requests.prompt_syntax import escape

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter


def says(prompt: str, words: str) -> bool:
    """Whether a text contains these words: whole words, in this order, in any case."""
    return any(re.search(one, prompt, re.IGNORECASE) for one in _patterns(words))


def without(prompt: str, words: str) -> str:
    """The prompt with every occurrence of these words cut out."""
    for pattern in _patterns(words):
        prompt = re.sub(pattern, "", prompt, flags=re.IGNORECASE)
    return prompt


def said_trigger(adapter: "Adapter", prompt: str) -> str | None:
    """The first of an adapter's trigger words and learned words that a prompt contains, or None."""
    known = (*adapter.triggers, *adapter.embeddings)
    return next((one for one in known if says(prompt, one)), None)


def unsaid(adapter: "Adapter") -> str:
    """A clause for messages: the prompt doesn't say the adapter's trigger words, which it names."""
    name = adapter.name or str(adapter.path or adapter.kind)
    known = " or ".join(repr(one) for one in (*adapter.triggers, *adapter.embeddings))
    return f"the prompt does not say the trigger words of {name}, {known or 'which are not known'}"


def _patterns(words: str) -> tuple[str, str]:
    """Regular expressions for words as they are, and for words with escaped brackets."""
    plain, escaped = (re.escape(one) for one in (words, escape(words)))
    return rf"(?<!\w){plain}(?!\w)", rf"(?<!\w){escaped}(?!\w)"
