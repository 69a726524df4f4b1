"""`studio align`: an adapter that moves a base's pictures to a reward."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studio.dataset.prompts import read_prompts
from studio.files import check_new_adapter
from studio.requests.validation import build
from trainers.align.options import Alignment
from trainers.align.rewards import REWARDS, Reward
from ui.cli.options import LOADING, AdapterFiles, AsJson, BaseSource, parse_adapters
from ui.shared.form import Form, with_options
from ui.shared.loading import open_base
from ui.shared.terminal import print_facts, print_json, progress_bars

if TYPE_CHECKING:
    from trainers.align.alignment import Aligning

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
            typer.Option(
                help="A file with a prompt a line, or a folder with captions. "
                "Default: sketch's own, for it."
            ),
        ] = None,
        as_json: AsJson = False,
        options: Mapping[str, object],
        alignment: Mapping[str, object],
        loading: Mapping[str, object],
    ) -> None:
        chosen, how = build(reward, options), build(Alignment, alignment)
        texts = read_prompts(prompts, base)
        chosen.check()
        check_new_adapter(out)
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
    from trainers.align.alignment import Aligning, align  # PyTorch with it
    from trainers.engine.distill.mixed import read_mixed

    opened = open_base(base, loading)
    worn = read_mixed(parse_adapters(adapters), opened).adapters
    steps: list[Aligning] = []
    with progress_bars("reward") as shown:
        bar = shown.add_task("Aligning", total=how.steps, reward="")
        for event in align(reward, opened, prompts, out=out, adapters=worn, options=how):
            if isinstance(event, Aligning):
                steps.append(event)
                told = f"reward {event.reward:.4f}, distance {event.distance:.2f}"
                shown.update(bar, completed=event.step, reward=told)
    return steps[0], steps[-1], out


for _name, _reward in REWARDS.items():
    _summary = (_reward.__doc__ or "").splitlines()[0]
    app.command(_name, help=_summary, epilog=f"Example: studio align {_name} --out a.safetensors")(
        align_command(_name, _reward)
    )
