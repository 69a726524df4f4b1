"""Facts inside facts, such as a recipe's, as a list of names and values."""

from collections.abc import Mapping


def flat_facts(facts: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested names joined by dots, and each plain list as one line."""
    flat: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(number): entry for number, entry in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            flat |= flat_facts(value, f"{prefix}{name}.")
        else:
            line = ", ".join(map(str, value)) if isinstance(value, list) else value
            flat[prefix + name] = line
    return flat
