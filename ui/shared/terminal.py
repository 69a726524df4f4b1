"""What the terminal shows: progress and remarks on stderr, results on stdout."""

import json
from collections.abc import Mapping, Sequence

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

__all__ = ["bars", "hush", "print_facts", "print_json", "print_table", "remark", "remarks"]

remarks = Console(stderr=True, highlight=False)
_results = Console(highlight=False)


def hush() -> None:
    """Say nothing any more, but what went wrong: another process speaks for this one."""
    remarks.quiet = _results.quiet = True


def remark(text: str) -> None:
    """Say something that is not the result."""
    remarks.print(text, markup=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a result for programs."""
    if _results.quiet:
        return
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values as a table of two columns; what is empty is left out."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and value != "":
            said = ("yes" if value else "no") if isinstance(value, bool) else value
            table.add_row(name, Text(str(said)))
    _results.print(table)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with a header."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    _results.print(table)


class _Speed(ProgressColumn):
    """Steps a second, or seconds a step where those are slow."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def bars(said: str = "") -> Progress:
    """Bars with their step, speed and time left; `said` names a task field shown in between."""
    saying = [TextColumn(f"{{task.fields[{said}]}}")] if said else []
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *saying,
        _Speed(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=remarks,
    )
