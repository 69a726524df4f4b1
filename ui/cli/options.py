"""Options that several commands share. Importing this file imports no PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

import compose
from studio.errors import BadInput
from ui.shared.form import Form
from ui.shared.loading import Loading
from ui.shared.names import parse_adapter

LOADING = Form(of=Loading, title="Base")
# Each method's options start with its name: methods have options of the same name, and `seed` is
# also an option of the picture.
METHODS = {
    name: Form(of=method, title=f"Options of the method {name}", prefix=name)
    for name, method in compose.methods().items()
}
BASES = (
    "sketch, sketch-sd1, a folder in the diffusers layout, a .safetensors file, or an id on "
    "Hugging Face."
)
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
BaseSource = Annotated[str, typer.Option(help=BASES)]
# For commands where a recipe or a picture may already name the base.
OptionalBase = Annotated[str | None, typer.Option(help=f"{BASES} Default: sketch.")]
AdapterFiles = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE[:HALF][:STRENGTH]",
        help="An adapter to use, such as robot.safetensors:0.8. HALF is content or style, for a "
        "B-LoRA. May be given several times.",
    ),
]
WorkspaceFolder = Annotated[
    Path, typer.Option("--workspace", help="Folder of the library, the runs and the queue.")
]
MethodName = Annotated[
    str | None, typer.Option(help=f"How to mix the adapters: {', '.join(compose.methods())}.")
]
RayAddress = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: HOST:PORT, or auto.")
]


def parse_adapters(texts: Sequence[str] | None) -> tuple[tuple[str, float], ...]:
    """Files with their strengths. Raises BadInput for a file that doesn't exist."""
    return tuple(parse_adapter(text) for text in texts or ())


def parse_method(
    name: str | None, options: Mapping[str, Mapping[str, object]]
) -> compose.Method | None:
    """The chosen method with its options, or None. options: the given options of each method.

    Raises BadInput for an option of a method that was not chosen.
    """
    for other, given in options.items():
        if given and other != name:
            option = f"--{other}-{next(iter(given)).replace('_', '-')}"
            advice = f"not of {name}" if name else f"so give --method {other} with it"
            raise BadInput(f"{option} is an option of the method {other}, {advice}.")
    return compose.method_named(name, options.get(name, {})) if name else None
