"""The library as HTML: a card for each adapter, and all that is known of one.

Whatever a file or a person said is text here, never markup.
"""

from collections.abc import Mapping, Sequence
from html import escape
from time import localtime, strftime

from studio.adapters.describe import JSON
from studio.bases.names import OURS
from studio.workspace import AdapterFile, Deleted, KnownBase
from ui.web.server.downloads import address

__all__ = [
    "base_rows",
    "cards",
    "details",
    "facts_table",
    "fitting",
    "lines",
    "size",
    "trash_rows",
]

WHAT = {
    "adapters": "adapter",
    "pictures": "picture",
    "runs": "training",
    "uploads": "pictures to train on",
}


def fitting(
    adapters: Sequence[AdapterFile], *, text: str = "", family: str = ""
) -> list[AdapterFile]:
    """Those of a family, and those whose name, trigger words, kind or base hold every word."""
    words = text.lower().split()
    return [
        one
        for one in adapters
        if (not family or one.family in ("", family))
        and all(word in _told(one).lower() for word in words)
    ]


def cards(adapters: Sequence[AdapterFile], *, chosen: str = "") -> str:
    """Buttons that say their adapter's name when they are pressed."""
    return f'<div class="cards">{"".join(_card(one, one.name == chosen) for one in adapters)}</div>'


def details(adapter: AdapterFile, told: Mapping[str, JSON]) -> str:
    """All that is known of an adapter. told: by `describe`; empty for a broken one."""
    if adapter.problem:
        said = f'<p class="problem">{escape(_problem(adapter))}</p>'
    else:
        recipe = told["recipe"]
        assert isinstance(recipe, Mapping)
        said = facts_table(_facts(adapter, told))
        if recipe:
            table = facts_table(_flat(recipe))
            said += f"<details><summary>Recipe</summary>{table}</details>"
    return f'<div class="about">{_picture(adapter)}<h3>{escape(adapter.name)}</h3>{said}</div>'


def facts_table(facts: Mapping[str, object]) -> str:
    """Names and values, one a line; those without a value are left out."""
    lines = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
        if value not in (None, "", (), [])
    )
    return f'<dl class="facts">{lines}</dl>'


def trash_rows(trash: Sequence[Deleted]) -> str:
    """What can be brought back, each with a button that says its id."""
    return "".join(
        f'<div class="entry"><span><b>{escape(one.title)}</b> '
        f"<small>{WHAT.get(one.place.partition('/')[0], 'file')}, {size(one.bytes)}, deleted "
        f"{_when(one.when)}</small></span>"
        f'<button type="button" class="small" data-name="{escape(one.id)}" '
        f'aria-label="Restore {escape(one.title)}">Restore</button></div>'
        for one in trash
    )


def lines(done: Sequence[str], refused: Sequence[str] = ()) -> str:
    """What was done and what was not, a line each."""
    good = "".join(f"<p>{escape(one)}</p>" for one in done)
    bad = "".join(f'<p class="problem">{escape(one)}</p>' for one in refused)
    return f'<div role="status">{good}{bad}</div>'


def base_rows(bases: Sequence[KnownBase]) -> str:
    """The bases; those that did not come with Studio have a button that says their source."""
    return "".join(
        f'<div class="entry"><span><b>{escape(one.name)}</b> <small>'
        f"{escape(one.family or 'family known once it was opened')}"
        f"{'' if one.source == one.name else ' · ' + escape(one.source)}</small></span>"
        + (
            "<small>comes with Studio</small>"
            if one.source in OURS
            else f'<button type="button" class="small" data-name="{escape(one.source)}" '
            f'aria-label="Forget {escape(one.name)}">Forget</button>'
        )
        + "</div>"
        for one in bases
    )


def size(bytes: int) -> str:
    """Such as "26.6 MB"."""
    if bytes < 10**6:
        return f"{max(1, round(bytes / 1000))} kB"
    return f"{bytes / 10**6:.1f} MB" if bytes < 10**9 else f"{bytes / 10**9:.2f} GB"


def _card(adapter: AdapterFile, chosen: bool) -> str:
    name = escape(adapter.name)
    if adapter.problem:
        said = f'<span class="problem">{escape(_problem(adapter))}</span>'
    else:
        kind = " · ".join(
            filter(None, (adapter.kind, adapter.base or adapter.family, size(adapter.bytes)))
        )
        words = ", ".join(adapter.triggers)
        said = f"<span>{escape(kind)}</span><span>{escape(words)}</span>"
    return (
        f'<button type="button" class="card{" broken" if adapter.problem else ""}" '
        f'data-name="{name}" aria-pressed="{str(chosen).lower()}">'
        f"{_picture(adapter)}<b>{name}</b>{said}</button>"
    )


def _picture(adapter: AdapterFile) -> str:
    if adapter.preview:
        return f'<img src="{escape(address(adapter.preview))}" alt="" loading="lazy">'
    letter = "!" if adapter.problem else adapter.name[:1].upper()
    return f'<span class="no-picture" aria-hidden="true">{escape(letter)}</span>'


def _problem(adapter: AdapterFile) -> str:
    """Why it cannot be used, without the folder, which is the same for all."""
    said = adapter.problem.replace(str(adapter.path), "the file")
    return said[:1].upper() + said[1:]


def _told(adapter: AdapterFile) -> str:
    said = (adapter.name, adapter.kind, adapter.family, adapter.base, *adapter.triggers)
    return " ".join(said)


def _facts(adapter: AdapterFile, told: Mapping[str, JSON]) -> dict[str, object]:
    """What an adapter is, in words."""
    base = adapter.base if adapter.base in ("", adapter.family) else f"{adapter.base}, "
    return {
        "Trigger words": ", ".join(adapter.triggers),
        "Kind": adapter.kind,
        "Base": f"{base}{adapter.family}" if base != adapter.family else base,
        "Size": f"{size(adapter.bytes)}, {adapter.parameters:,} numbers",
        "Steps": adapter.steps,
        "Halves": " and ".join(adapter.halves),
        "Layers": _counted(told["layers"]),
        "Forms": _counted(told["forms"]),
        "Ranks": _counted(told["ranks"], "rank "),
        "Learned words": _counted(told["tokens"]),
        "Changed": _when(adapter.modified),
        "Made on base": told["fingerprint"],
    }


def _counted(counts: JSON, before: str = "") -> str:
    """`{"unet": 24}` as "unet 24"."""
    assert isinstance(counts, Mapping)
    return ", ".join(f"{before}{name}: {many}" for name, many in counts.items())


def _flat(facts: Mapping[str, JSON], before: str = "") -> dict[str, object]:
    """Nested names with dots between them, lists in one line."""
    found: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = (
                ", ".join(map(str, value)) if isinstance(value, list) else value
            )
    return found


def _when(seconds: float) -> str:
    return strftime("%Y-%m-%d %H:%M", localtime(seconds))
