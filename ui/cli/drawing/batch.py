"""`studio batch`: make the pictures of a manifest; an interrupted batch can be resumed."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from studio.duration import format_duration
from studio.errors import Stopped
from ui.cli.options import LOADING, AsJson, RayAddress
from ui.shared.folder_lock import only_process
from ui.shared.form import with_options
from ui.shared.launched_processes import ProcessGroup, process_group, refuse_many
from ui.shared.terminal import print_note, print_outcome, print_table, progress_bars

if TYPE_CHECKING:
    from ui.batch.plan import Plan

app = typer.Typer()

INTERVAL = 0.5  # seconds between two counts of the pictures that other processes have written


def make_batch(
    plan: "Plan", *, loading: Mapping[str, object], ray: str | None, as_json: bool
) -> int:
    """Make the missing pictures of a plan. Returns the exit code: 0, or 1 if some failed.

    ray: address of a cluster to run on. Raises BadInput before the first picture for shots that
    can't be made on their base.
    """
    refuse_many(ray)
    with process_group(loading.get("device", "auto")) as processes, ExitStack() as held:
        if processes.is_first:
            held.enter_context(only_process(plan.out))
        return _run_rank(plan, processes, loading=loading, ray=ray, as_json=as_json)


def _run_rank(
    plan: "Plan",
    processes: ProcessGroup,
    *,
    loading: Mapping[str, object],
    ray: str | None,
    as_json: bool,
) -> int:
    """Make this process's share of the pictures; the first process prints the whole outcome."""
    from ui.batch.runner import PictureFailed, PictureWritten, run_batch  # PyTorch with it

    begun = perf_counter()
    existing = len(plan.names) - len(plan.missing())
    failed: dict[int, str] = {}
    counted = 0.0
    try:
        with progress_bars() as shown:
            left = len(plan.missing())
            task = shown.add_task("Pictures", total=left)
            for event in run_batch(plan, loading, processes, ray=ray):
                match event:
                    case PictureWritten() if processes.count > 1:  # count those of all processes
                        if processes.is_first and perf_counter() > counted + INTERVAL:
                            shown.update(task, completed=left - len(plan.missing()))
                            counted = perf_counter()
                    case PictureWritten():
                        shown.advance(task)
                    case PictureFailed(at, reason):
                        failed[at] = reason
                        shown.advance(task)
            shown.update(task, completed=left - len(plan.missing()) + len(failed))
    except KeyboardInterrupt:
        existing = len(plan.names) - len(plan.missing())
        raise Stopped(
            f"{existing} of {len(plan.names)} pictures are in {plan.out}; --resume goes on"
        ) from None
    failed = processes.gather(failed)
    seconds = perf_counter() - begun
    made = len(plan.names) - existing - len(failed)
    _print_outcome(plan, failed, existing=existing, made=made, seconds=seconds, as_json=as_json)
    return 1 if failed else 0


def tell_cost(plan: "Plan", *, loading: Mapping[str, object], as_json: bool) -> None:
    """Print the cost of a plan without making a picture.

    Raises BadInput for shots that can't be made.
    """
    from ui.batch.runner import expect_batch  # PyTorch with it

    left = len(plan.missing())
    cost = expect_batch(plan, loading)
    facts = {
        "pictures": left,
        "there already": len(plan.names) - left,
        "evaluations of the UNet": cost.evaluations,
        "seconds": round(cost.seconds, 1),
    }
    about = f"about {format_duration(cost.seconds)}, by a step measured just now on this machine"
    print_outcome("Batch", facts, as_json=as_json, shown={"seconds": None, "time": about})


def _print_outcome(
    plan: "Plan",
    failed: Mapping[int, str],
    *,
    existing: int,
    made: int,
    seconds: float,
    as_json: bool,
) -> None:
    failures = [(plan.names[at], reason) for at, reason in sorted(failed.items())]
    facts = {
        "out": str(plan.out),
        "made": made,
        "there already": existing,
        "failed": len(failed),
        "seconds": round(seconds, 1),
        "failures": [{"file": name, "reason": reason} for name, reason in failures],
    }
    shown = {"failures": None, "sheet": plan.out / "sheet.html"}
    print_outcome("Batch", facts, as_json=as_json, shown=shown)
    if failures and not as_json:
        print_table(("failed", "why"), failures)


@app.command(epilog="Example: studio batch faces.toml --out faces")
@with_options({"loading": LOADING})
def batch(
    file: Annotated[Path, typer.Argument(help="A manifest: .toml, .jsonl or .csv.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder. Default: outputs/ and the manifest's name.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Make the missing pictures of the batch in that folder; on a CPU with the same "
            "bytes.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show the cost. Make no picture.")
    ] = False,
    ray: RayAddress = None,
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Make the pictures of a manifest.

    Exit codes: 0 all are made, 1 some failed, 2 the manifest has mistakes.
    """
    from ui.batch.plan import plan_batch

    plan = plan_batch(file, out, resume=resume or dry_run)
    for note in plan.manifest.notes:
        print_note(note)
    if dry_run:
        tell_cost(plan, loading=loading, as_json=as_json)
        return
    code = make_batch(plan, loading=loading, ray=ray, as_json=as_json)
    if code:
        raise typer.Exit(code)
