"""The library as HTML: a card for each adapter, an adapter's details, the bases and the trash."""

from collections.abc import Collection, Mapping, Sequence

from jinja2.filters import do_filesizeformat

from studio.bases.names import BUNDLED_BASES
from studio.json_value import JSON
from studio.workspace import AdapterFile, Deleted, KnownBase
from ui.shared.terminal import flat_facts
from ui.web.frontend import KIND_NAMES, local_time, template

NAMELESS: Mapping[str, str] = {}
PARTS = {
    "unet": "of the UNet",
    "text_encoder": "of the text encoder",
    "text_encoder_2": "of the second text encoder",
}


def matching(
    adapters: Sequence[AdapterFile], *, text: str = "", family: str = ""
) -> list[AdapterFile]:
    """The adapters of a family, "" for any, whose facts and labels contain every word of a text."""
    words = text.lower().split()
    return [
        adapter
        for adapter in adapters
        if (not family or adapter.family in ("", family))
        and all(word in _searched_text(adapter) for word in words)
    ]


def cards(adapters: Sequence[AdapterFile], *, chosen: Collection[str] = ()) -> str:
    """A button for each adapter. chosen: the names of the selected adapters."""
    return template("library/cards.html").render(adapters=adapters, chosen=chosen)


def details(adapter: AdapterFile, description: Mapping[str, JSON]) -> str:
    """The details of an adapter. description: from `describe`; empty for a broken file."""
    recipe = description.get("recipe", {})
    assert isinstance(recipe, Mapping)
    return template("library/details.html").render(
        adapter=adapter,
        table={} if adapter.problem else _facts(adapter, description),
        recipe=flat_facts(recipe),
    )


def trash_rows(trash: Sequence[Deleted]) -> str:
    """The rows of the trash. The button Restore of each fires `click` with its id."""
    return template("library/trash.html").render(trash=trash)


def base_rows(bases: Sequence[KnownBase]) -> str:
    """The bases. The button Forget, which bundled ones lack, fires `click` with the source."""
    return template("library/bases.html").render(bases=bases, built_in=BUNDLED_BASES)


def _searched_text(adapter: AdapterFile) -> str:
    labels = (*adapter.triggers, *adapter.tags, adapter.notes)
    texts = (adapter.name, adapter.kind, adapter.family, adapter.base, *labels)
    return " ".join(texts).lower()


def _facts(adapter: AdapterFile, description: Mapping[str, JSON]) -> dict[str, object]:
    """The facts of an adapter, by label."""
    base = [adapter.base, adapter.family] if adapter.base != adapter.family else [adapter.base]
    return {
        "Trigger words": ", ".join(adapter.triggers),
        "Tags": ", ".join(adapter.tags),
        "Notes": adapter.notes,
        "Adapter type": KIND_NAMES.get(adapter.kind, adapter.kind),
        "Base": ", ".join(filter(None, base)),
        "Size": f"{do_filesizeformat(adapter.bytes)}, {adapter.parameters:,} parameters",
        "Steps": adapter.steps,
        "Halves": " and ".join(adapter.halves),
        "Layers": _counts(description["layers"], names=PARTS),
        "Saved as": _counts(description["forms"], names=KIND_NAMES),
        "Ranks": _counts(description["ranks"], "rank "),
        "New words": _counts(description["tokens"]),
        "Changed": local_time(adapter.modified),
        "Base fingerprint": description["fingerprint"],
    }


def _counts(counts: JSON, before: str = "", *, names: Mapping[str, str] = NAMELESS) -> str:
    """`{"unet": 24}` as "24 of the UNet".

    before: words in front of each name, such as "rank ". With them a single entry goes without its
    count: `{"16": 24}` is "rank 16".
    """
    assert isinstance(counts, Mapping)
    named = {f"{before}{names.get(name, name)}": count for name, count in counts.items()}
    if before and len(named) == 1:
        return next(iter(named))
    return ", ".join(f"{count} {name}" for name, count in named.items())
