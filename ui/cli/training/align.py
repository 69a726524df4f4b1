"""`studio align`: an adapter that moves a base's pictures to a reward."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.files import read_text
from studio.requests.validation import build
from trainers.align.options import Alignment
from trainers.align.rewards import REWARDS, Reward
from ui.cli.options import LOADING, AdapterFiles, AsJson, BaseSource, parse_adapters
from ui.shared.form import Form, with_options
from ui.shared.loading import open_base
from ui.shared.terminal import print_facts, print_json, progress_bars

if TYPE_CHECKING:
    from trainers.align.alignment import Aligning

OF_SKETCH = 64  # captions, of scenes that the bundled bases know

app = typer.Typer(
    name="align",
    help="Train a LoRA that moves a base's pictures to a reward, without example pictures.",
    epilog="Example: studio align palette --colours navy --colours white --out navy.safetensors",
    no_args_is_help=True,
)


def align_command(name: str, reward: type[Reward]) -> Callable[..., None]:
    """The command for this reward."""

    @with_options(
        {
            "options": Form(of=reward, title=f"Options of {name}"),
            "alignment": Form(of=Alignment, title="Training"),
            "loading": LOADING,
        }
    )
    def align(
        *,
        out: Annotated[Path, typer.Option(help="The adapter's file.")],
        base: BaseSource = "sketch",
        adapter: AdapterFiles = None,
        prompts: Annotated[
            Path | None,
            typer.Option(help="A file with a prompt a line. Default: captions of a bundled base."),
        ] = None,
        as_json: AsJson = False,
        options: Mapping[str, object],
        alignment: Mapping[str, object],
        loading: Mapping[str, object],
    ) -> None:
        chosen, how = build(reward, options), build(Alignment, alignment)
        texts = read_prompts(prompts, base)
        chosen.check()
        first, last, path = _run(chosen, how, base, loading, texts, adapter, out)
        facts = {
            "adapter": str(path),
            "reward before": round(first.reward, 4),
            "reward after": round(last.reward, 4),
            "distance": round(last.distance, 4),
        }
        if as_json:
            print_json(facts)
        else:
            print_facts("Aligned", facts)

    return align


def _run(
    reward: Reward,
    how: Alignment,
    base: str,
    loading: Mapping[str, object],
    prompts: Sequence[str],
    adapters: Sequence[str] | None,
    out: Path,
) -> "tuple[Aligning, Aligning, Path]":
    """Align, and show it: the first and the last step, and the file."""
    from studio.adapters.load import load_adapter  # PyTorch with it
    from trainers.align.alignment import Aligning, align

    opened = open_base(base, loading)
    worn = [(load_adapter(file, base=opened), s) for file, s in parse_adapters(adapters)]
    steps: list[Aligning] = []
    with progress_bars("reward") as shown:
        bar = shown.add_task("Aligning", total=how.steps, reward="")
        for event in align(reward, opened, prompts, out=out, adapters=worn, options=how):
            if isinstance(event, Aligning):
                steps.append(event)
                told = f"reward {event.reward:.4f}, distance {event.distance:.2f}"
                shown.update(bar, completed=event.step, reward=told)
    return steps[0], steps[-1], out


def read_prompts(file: Path | None, base: str) -> list[str]:
    """The lines of a file, or captions that a bundled base knows; BadInput where there are none."""
    if file is not None:
        lines = [line.strip() for line in read_text(file).splitlines()]
        if found := list(dict.fromkeys(filter(None, lines))):
            return found
        raise BadInput(f"{file} has no line with a prompt.")
    if base not in BUNDLED_BASES:
        raise BadInput(f"{base} needs prompts of what will be drawn: give --prompts FILE.")
    import numpy as np

    from studio.sketch.captions import plain
    from studio.sketch.scenes import sample

    rng = np.random.default_rng([31, 0])
    return list(dict.fromkeys(plain(sample(rng)) for _ in range(OF_SKETCH)))


for _name, _reward in REWARDS.items():
    _summary = (_reward.__doc__ or "").splitlines()[0]
    app.command(_name, help=_summary, epilog=f"Example: studio align {_name} --out a.safetensors")(
        align_command(_name, _reward)
    )
