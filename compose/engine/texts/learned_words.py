"""The new words that the adapters of a mix have learned, for use in prompts.

A word can be used while its adapter is in the mix; the strength does not scale it. Words are listed
among the text encoders' mixed weights, under names that no layer has. So the key of an encoded
prompt includes the words that it was encoded with.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

import torch

from compose.engine.method import Mix
from compose.engine.weights.adapter_change import Change
from compose.engine.weights.mixed_weights import MixedWeights, WeightMix
from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.adapters.token_embeddings import Embeddings

WORD = "word:"


def split_mixed(
    pairs: "Sequence[tuple[Adapter, float]]",
) -> "tuple[list[tuple[Adapter, float]], list[tuple[Adapter, float]]]":
    """The adapters that a method mixes, and those that have only new words.

    The latter change no weight, so there is nothing to mix; every mix has their words.
    """
    changing = [pair for pair in pairs if pair[0].deltas or not pair[0].embeddings]
    return changing, [pair for pair in pairs if pair not in changing]


def words(mix: Mix, changes: Sequence[Change], always: Sequence[Change]) -> MixedWeights:
    """The new words of a mix, each with the adapter that it comes from.

    always: adapters whose words every mix has. Raises BadInput where two adapters have different
    embeddings for one token.
    """
    parts = mix.parts if mix.text is None else mix.text
    mixed = [changes[part.adapter] for part in parts if part.strength]
    owners: dict[str, Change] = {}
    for one in [*mixed, *(one for one in always if one.strength)]:
        for token in one.adapter.embeddings:
            first = owners.setdefault(token.lower(), one)
            _check_same(token, first.adapter, one.adapter)
    return frozenset(
        (f"{WORD}{token}", WeightMix(((one.adapter, one.version, 1.0),), None))
        for one in owners.values()
        for token in one.adapter.embeddings
        if owners[token.lower()] is one
    )


def is_token(name: str) -> bool:
    """Whether a name among the mixed weights is that of a new word, not of a layer."""
    return name.startswith(WORD)


def embeddings(mixed: MixedWeights) -> "Embeddings":
    """The embeddings of the new words among the mixed weights."""
    found = ((name.removeprefix(WORD), mix.shares[0][0]) for name, mix in mixed if is_token(name))
    return {token: adapter.embeddings[token] for token, adapter in sorted(found, key=itemgetter(0))}


def _check_same(token: str, one: "Adapter", other: "Adapter") -> None:
    if one is other:
        return
    first, second = (
        {name.lower(): rows for name, rows in adapter.embeddings.items()}[token.lower()]
        for adapter in (one, other)
    )
    if first.keys() != second.keys() or not all(
        torch.equal(first[name], second[name]) for name in first
    ):
        names = " and ".join(str(a.path or a.name or a.kind) for a in (one, other))
        raise BadInput(
            f"{names} both have an embedding for {token!r}, and not the same: take one of them out "
            "of the mix, or train one again with another token"
        )
