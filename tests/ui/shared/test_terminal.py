"""What the terminal shows."""

import pytest

from ui.shared.terminal import print_facts, print_note, print_table, progress_bars


def test_square_brackets_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_facts("Picture [red]1.png", {"options[bold]": "a [blue] robot"})
    print_table(["adapter [dim]"], [["[/dim]"]])
    print_note("[link=x]")
    with progress_bars("loss") as bars:
        bars.add_task("Training '[b]robot'", total=1, loss="[i]0.1")
    shown = capsys.readouterr()
    for text in ("Picture [red]1.png", "options[bold]", "a [blue] robot", "adapter [dim]"):
        assert text in shown.out
    assert "[/dim]" in shown.out
    for text in ("[link=x]", "Training '[b]robot'", "[i]0.1"):
        assert text in shown.err
