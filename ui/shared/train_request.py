"""Training requests from the command line and from recipe.toml files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import trainers
from studio.errors import BadInput
from studio.requests.training import TrainingRequest, read_request
from studio.requests.validation import build
from ui.shared.names import slug
from ui.shared.terminal import print_note


def request_for(kind: str, given: Mapping[str, object], file: Path | None) -> TrainingRequest:
    """The training that a command line asks for.

    given: the fields of TrainingRequest that the command line sets. file: a recipe.toml that gives
    the other fields.
    """
    if file is None:
        request = build(TrainingRequest, {"kind": kind, **given})
    elif (request := read_request(file)).kind == kind:
        request = request.changed(given)
    else:
        raise BadInput(f"{file} is a recipe for {request.kind}: leave out {kind}.")
    trainers.kind_of(request)
    return request


def complete(request: TrainingRequest) -> TrainingRequest:
    """The request with a name for the adapter's file.

    Raises BadInput if the pictures or the trigger are missing.
    """
    for what, value in (("PICTURES", request.pictures), ("--trigger", request.trigger)):
        if not value and not request.from_prompts:
            advice = f"studio train {request.kind} --help shows an example."
            raise BadInput(f"{what} is missing: {advice}")
    named = Path(f"{slug(request.title) or request.kind}.safetensors")
    return replace(request, out=request.out or named)


def keep_out_here(request: TrainingRequest) -> TrainingRequest:
    """The request of a recipe file, with its `out` in the current folder or below.

    A recipe may come from a stranger, so it must not decide where files are written.
    """
    here = Path.cwd().resolve()
    if request.out is None or (here / request.out).resolve().is_relative_to(here):
        return request
    out = Path(request.out.name)
    print_note(
        f"The recipe's out, {request.out}, is outside this folder: the adapter is written to "
        f"{out}. Give --out for another place."
    )
    return replace(request, out=out)


def options_in(given: Mapping[str, object]) -> list[str]:
    """The options that set these fields of TrainingRequest, except those of opening the base."""
    tables = [given[name] for name in ("options", "recipe") if name in given]
    names = [name for name, value in given.items() if not isinstance(value, Mapping)]
    names += [name for table in tables if isinstance(table, Mapping) for name in table]
    return ["PICTURES" if n == "pictures" else f"--{n.replace('_', '-')}" for n in names]
