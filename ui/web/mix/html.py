"""What Mix shows of a job, of the library and of the history, as HTML."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from studio.errors import BadInput
from studio.queue.client import Job
from studio.workspace import AdapterFile, PictureFile, Workspace, get_picture, thumbnail
from ui.web.mix.comparison import Table, table
from ui.web.mix.settings import Picked
from ui.web.server.downloads import file_url

__all__ = [
    "caption",
    "cards",
    "cell_grid",
    "empty",
    "examples",
    "failed",
    "frame",
    "history",
    "made",
    "note",
    "notice",
    "row",
]

INLINE = 300_000  # bytes of a picture that is put into the page itself, which shows it sooner


def url(path: Path) -> str:
    """Where a page finds a picture, whose address changes when it does."""
    return f"{file_url(path)}?v={path.stat().st_mtime_ns}"


def frame(picture: Path, *, alt: str, forming: bool = False) -> str:
    """A picture as large as there is room; one that is forming or small comes with the page."""
    data = picture.read_bytes() if picture.stat().st_size <= INLINE else None
    if data is None:
        source = url(picture)
    else:
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    kind = "mix-frame forming" if forming else "mix-frame"
    return (
        f'<figure class="{kind}"><img decoding="sync" src="{source}" alt="{escape(alt)}"></figure>'
    )


def empty(said: str) -> str:
    """The frame without a picture."""
    return f'<figure class="mix-frame none"><p>{escape(said)}</p></figure>'


def failed(error: str, advice: str = "") -> str:
    """The frame of a picture that could not be made, with the reason and what may help."""
    said = "".join(f"<p>{escape(_sentence(text))}</p>" for text in (error, advice) if text)
    return f'<figure class="mix-frame none" role="alert"><div>{said}</div></figure>'


def cell_grid(space: Workspace, job: Job, forming: str) -> str:
    """A comparison as a labelled table, as far as it is drawn. forming: the next one's frame."""
    shots = job.arguments["shots"]
    assert isinstance(shots, list)
    labels = table(shots)  # pyright: ignore[reportArgumentType]
    cells = [_cell(space, id) for id in job.results]
    if len(cells) < len(shots) and forming:
        cells.append(forming)
    cells += ['<div class="cell none"></div>'] * (len(shots) - len(cells))
    several = len(labels.rows) > 1
    return (_labelled if several else _side_by_side)(labels, cells)


def history(space: Workspace, pictures: Sequence[PictureFile], *, more: bool) -> str:
    """Thumbnails, the newest first. more: whether there are others behind them."""
    if not pictures:
        return '<p class="quiet">Every picture that you make is kept here, with its settings.</p>'
    found = "".join(
        f'<button type="button" data-name="{escape(one.id)}" title="{escape(_words(one.id))}">'
        f'<img loading="lazy" src="{url(small)}" alt="{escape(_words(one.id))}"></button>'
        for one in pictures
        if (small := _thumbnail(space, one.id))
    )
    last = '<button type="button" class="more" data-name="more">Show more</button>' if more else ""
    return f'<div class="mix-history">{found}{last}</div>'


def cards(library: Sequence[tuple[AdapterFile, str]]) -> str:
    """The library to choose from. Beside each adapter why it does not fit, or ""."""
    if not library:
        return (
            '<p class="quiet">The library is empty: train an adapter in Train, where there are '
            "pictures to begin with, or import one in Library.</p>"
        )
    fits = [_card(*one) for one in library if not one[1]]
    others = [_card(*one) for one in library if one[1]]
    return f'<div class="mix-cards">{"".join(fits + others)}</div>'


def examples(prompts: Sequence[str]) -> str:
    """Prompts to try."""
    chips = "".join(
        f'<button type="button" data-name="{escape(one)}">{escape(one)}</button>' for one in prompts
    )
    return f'<div class="mix-examples"><span>Try</span>{chips}</div>'


def row(adapter: AdapterFile | None, picked: Picked, place: int) -> str:
    """The head of an adapter's row in the mix."""
    if adapter is None:
        return f'<div class="mix-picked"><b>{place}. {escape(picked.name)}</b> is gone</div>'
    return (
        f'<div class="mix-picked"><i class="c{(place - 1) % 6}"></i>{_face(adapter)}'
        f"<div><b>{place}. {escape(adapter.name)}</b>"
        f"<span>{escape(_facts(adapter))}</span></div></div>"
    )


def caption(job: Job) -> str:
    """Under a picture: how it stands with the job, or how the picture was made."""
    match job.state:
        case "queued":
            return note("Waiting for its turn")
        case "running":
            done = job.step / job.total if job.total else 0.0
            said = "Stopping" if job.stopping else job.phase.capitalize() or "Starting"
            return note(said, f'<progress max="1" value="{done:.3f}"></progress>')
        case "failed":
            return note("Not drawn")
        case "stopped":
            drawn = f", {len(job.results)} of {job.total} drawn" if job.results else ""
            return note(f"Stopped{drawn}")
    return note(_told(job))


def made(recipe: Mapping[str, object], path: Path) -> str:
    """Under a picture of the history: how it was made, and the file."""
    method = recipe.get("method")
    mixed = f", {method['name']}" if isinstance(method, dict) and recipe.get("adapters") else ""
    said = f"Seed {recipe.get('seed')}, {recipe.get('steps')} steps{mixed}"
    return note(said, f'<a href="{url(path)}" download="{escape(path.name)}">Save the file</a>')


def note(said: str, more: str = "") -> str:
    """The line under the picture. more: HTML."""
    return f'<div class="mix-note" role="status">{escape(said)} {more}</div>'


def notice(sentences: Sequence[str]) -> str:
    """What was not as it was when a picture was made."""
    said = "".join(f"<p>{escape(_sentence(one))}</p>" for one in sentences)
    return f'<div class="mix-notice" role="alert">{said}</div>'


def _told(job: Job) -> str:
    shots = job.arguments["shots"]
    assert isinstance(shots, list)
    first = shots[0]
    assert isinstance(first, dict)
    took = f" in {job.seconds:.1f} s" if job.seconds else ""
    if len(shots) > 1:
        return f"{len(shots)} pictures{took}; choose one for its settings"
    return f"Seed {first['seed']}, {first['steps']} steps{took}"


def _labelled(labels: Table, cells: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels.columns)
    wide = len(labels.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells[at * wide : (at + 1) * wide])
        + "</tr>"
        for at, label in enumerate(labels.rows)
    )
    return (
        f'<div class="mix-table"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _side_by_side(labels: Table, cells: Sequence[str]) -> str:
    pairs = zip(labels.columns, cells, strict=True)
    figures = "".join(
        f"<figure>{cell}<figcaption>{escape(label)}</figcaption></figure>" for label, cell in pairs
    )
    return f'<div class="mix-side">{figures}</div>'


def _cell(space: Workspace, id: str) -> str:
    small, said = _thumbnail(space, id), escape(_words(id))
    if small is None:
        return '<div class="cell none">deleted</div>'
    return (
        f'<button type="button" class="cell" data-name="{escape(id)}" title="Open its settings">'
        f'<img src="{url(small)}" alt="{said}"></button>'
    )


def _thumbnail(space: Workspace, id: str) -> Path | None:
    """None for a picture that is gone, or damaged."""
    try:
        get_picture(space, id)
        return thumbnail(space, id)
    except BadInput:
        return None


def _card(adapter: AdapterFile, wrong: str) -> str:
    name, said = escape(adapter.name), escape(wrong or _facts(adapter))
    off = " disabled" if wrong else ""
    return (
        f'<button type="button" data-name="{name}"{off} title="{said}">{_face(adapter)}'
        f"<span><b>{name}</b><small>{said}</small></span></button>"
    )


def _face(adapter: AdapterFile) -> str:
    if adapter.preview is None or not adapter.preview.is_file():
        return f'<div class="face">{escape(adapter.name[:1].upper())}</div>'
    return f'<img class="face" src="{url(adapter.preview)}" alt="">'


def _facts(adapter: AdapterFile) -> str:
    base = adapter.base.rpartition("/")[2] or adapter.family
    kind = "" if adapter.kind == "unknown" else adapter.kind
    trigger = f"“{adapter.triggers[0]}”" if adapter.triggers else ""
    return " · ".join(filter(None, (kind, base, trigger)))


def _words(id: str) -> str:
    """What a picture's name tells of its prompt."""
    name = id.rpartition("/")[2].removesuffix(".png")
    return name.partition("-")[2] or name


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
