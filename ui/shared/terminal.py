"""Printing on the terminal: progress and notes on stderr, results on stdout.

Prompts and file names may contain square brackets and control characters. So no text is read as
rich markup, and control characters are removed.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from studio.errors import UNPRINTABLE, clean_text

_stderr = Console(stderr=True, highlight=False)
_stdout = Console(highlight=False)


def silence() -> None:
    """Print nothing but errors from now on, as another process reports for this one."""
    _stderr.quiet = _stdout.quiet = True


def print_note(text: str) -> None:
    """Print a note on stderr."""
    _stderr.print(clean_text(text), markup=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a result as JSON on stdout."""
    if not _stdout.quiet:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        print(UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def flat_facts(facts: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested facts as a flat dict: names are joined by dots, and plain lists become one line."""
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


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values as a table of two columns; None and empty values are left out."""
    table = Table(title=_plain(title), title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and value != "":
            shown = ("yes" if value else "no") if isinstance(value, bool) else value
            table.add_row(_plain(name), _plain(shown))
    _stdout.print(table)


def print_outcome(
    title: str,
    facts: Mapping[str, object],
    *,
    as_json: bool,
    shown: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Print facts as JSON or as a table. shown: facts that are added or replaced in the table."""
    if as_json:
        print_json(facts)
    else:
        print_facts(title, {**facts, **shown})


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with a header."""
    table = Table()
    for column in columns:
        table.add_column(_plain(column), overflow="fold")
    for row in rows:
        table.add_row(*map(_plain, row))
    _stdout.print(table)


def _plain(value: object) -> Text:
    return Text(clean_text(str(value)))


class _Speed(ProgressColumn):
    """Steps a second, or seconds a step if those are slow."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def progress_bars(extra: str = "") -> Progress:
    """Progress bars with step, speed and time left. extra: a field of the tasks to show too."""
    field = [TextColumn(f"{{task.fields[{extra}]}}", markup=False)] if extra else []
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *field,
        _Speed(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=_stderr,
    )
