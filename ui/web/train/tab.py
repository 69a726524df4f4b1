"""The tab Train: pictures, what is to be learned of them and how, and the trainings at work."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import gradio as gr

import trainers
from studio.bases.info import BaseInfo, read_base_info
from studio.errors import BadInput
from studio.workspace import Workspace, add_base, list_bases
from ui.web.server.page import QUIET, Page, show_bad_input
from ui.web.train.compare import comparison, wire_comparison
from ui.web.train.options import (
    NAMES,
    SHOWN,
    WORDS,
    Options,
    options,
    preset,
    shown,
)
from ui.web.train.pictures import pictures, wire_pictures
from ui.web.train.request import Data, Form, cost, queue, sample_prompts
from ui.web.train.runs import look_at, runs, wire_runs

__all__ = ["train_tab"]

# Of a recipe, what the line above the button tells.
PLANNED = ("steps", "batch", "accumulation", "lr", "size")


def train_tab(page: Page) -> None:
    """Lay it out and wire it."""
    space = page.space
    with gr.Row(equal_height=False, elem_classes="studio-columns"):
        with gr.Column(scale=5, min_width=320):
            own = pictures(space)
            with gr.Row(elem_classes="studio-line"):
                trigger = gr.Textbox(
                    label="Trigger",
                    info="The words that are to stand for what is learned",
                    placeholder="sks robot",
                    max_length=200,
                )
                base = gr.Dropdown(
                    _bases(space),
                    value="sketch",
                    label="Base",
                    info="One of these, or type a Hugging Face id, a folder or a file",
                    allow_custom_value=True,
                )
            kind = gr.Radio(_kinds(), value="lora", label="Kind", info=_words("lora"))
            with gr.Row(elem_classes="studio-line"):
                steps = gr.Textbox(label="Steps", info="How long it learns")
                sampled = gr.Textbox(
                    label="Sample prompts",
                    info="One a line; drawn now and then to see what it has learned",
                    lines=2,
                    max_lines=4,
                    placeholder=sample_prompts("the trigger"),
                    scale=2,
                )
            more = options(space)
            plan = gr.HTML(padding=False)
            taking = gr.HTML(padding=False, visible=False)
            start = gr.Button("Train", variant="primary", size="lg")
        with gr.Column(scale=6, min_width=320, elem_id="studio-runs"):
            seen = runs(space)
            grid = comparison()
    wire_pictures(space, own, trigger, base, more.recipe)
    wire_runs(page, seen)
    wire_comparison(page, grid, seen)
    _wire_kind(space, kind, base, steps, more, plan)

    form = Form(own.sets, trigger, base, kind, steps, sampled, more)

    @show_bad_input
    def begin(data: Data) -> list[Any]:
        return look_at(space, queue(space, form, data))

    begun = gr.on([start.click], begin, form.all(), seen.looked, **QUIET)
    begun.success(None, js="() => document.getElementById('studio-runs').scrollIntoView()")
    _wire_cost(space, form, taking)
    trigger.blur(
        lambda words: gr.Textbox(placeholder=sample_prompts(words or "the trigger")),
        trigger,
        sampled,
        show_progress="hidden",
        api_visibility="private",
    )


def _wire_kind(
    space: Workspace,
    kind: gr.Radio,
    base: gr.Dropdown,
    steps: gr.Textbox,
    more: Options,
    plan: gr.HTML,
) -> None:
    """Show the options of the kind, and what holds on this base where nothing is asked for."""

    def choose(kind: str, source: str | None, *texts: str | None) -> list[Any]:
        made = trainers.kinds()[kind]()
        given = dict(zip(PLANNED, map(_number, texts), strict=True))
        number = int(given["steps"]) if given["steps"] else None
        try:
            known = read_base_info(source or "")
        except BadInput as error:
            known, said = None, str(error)
        else:
            said = _plan(made, known, given)
        told = shown(made, known, number)
        start = preset(made, known)
        return [
            gr.Radio(info=_words(kind)),
            gr.Textbox(placeholder=str(start.steps)),
            f'<p class="quiet">{escape(said)}</p>',
            *(gr.Group(visible=name == kind) for name in more.groups),
            *(told[name] for name in SHOWN),
        ]

    @show_bad_input
    def settle(source: str | None) -> Any:
        if not source or source in {one for _, one in _bases(space)}:
            return gr.skip()
        known = add_base(space, source.strip())
        return gr.Dropdown(_bases(space), value=known.source)

    base.input(settle, base, base, **QUIET)
    gr.on(
        None,
        choose,
        [kind, base, steps, *(more.recipe[name] for name in PLANNED[1:])],
        [kind, steps, plan, *more.groups.values(), *(more.recipe[name] for name in SHOWN)],
        **QUIET,
    )


def _wire_cost(space: Workspace, form: Form, told: gr.HTML) -> None:
    """Say what the training will take, once there are pictures for it."""

    def tell(data: Data) -> Iterator[Any]:
        if not data[form.sets]:
            yield gr.HTML(visible=False)
            return
        yield gr.HTML('<p class="quiet">Working out time and memory</p>', visible=True)
        try:
            said = escape(cost(space, form, data))
        except BadInput as error:
            yield gr.HTML(f'<p class="problem">{escape(str(error))}</p>')
        else:
            yield gr.HTML(f'<p class="studio-cost">{said}</p>' if said else "", visible=bool(said))

    options: list[Any] = form.more.deciding()
    texts = [one.blur for one in [form.steps, *options] if isinstance(one, gr.Textbox)]
    others = [one.change for one in options if not isinstance(one, gr.Textbox)]
    gr.on(
        [form.sets.change, form.kind.change, form.base.change, form.steps.submit, *texts, *others],
        tell,
        form.all(),
        told,
        trigger_mode="always_last",
        concurrency_limit=1,
        show_progress="hidden",
        api_visibility="private",
    )


def _plan(kind: trainers.Kind, base: BaseInfo | None, given: Mapping[Any, float | None]) -> str:
    """What the training comes to. given: what was asked for, by field; None for what was not."""
    if base is None:
        return "The base is downloaded when it is first used; what suits it is known then."
    start = preset(kind, base)
    steps, batch, parts, lr = (given[name] or getattr(start, name) for name in PLANNED[:-1])
    return (
        f"{steps:g} steps of {batch * parts:g} pictures at {given['size'] or base.size:g} pixels, "
        f"learning rate {lr:g}"
    )


def _number(text: str | None) -> float | None:
    """A positive number that was typed; None for anything else, which is told when it is used."""
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if 0 < found < float("inf") else None


def _bases(space: Workspace) -> list[tuple[str, str]]:
    return [(f"{one.name} ({one.family or 'new'})", one.source) for one in list_bases(space)]


def _kinds() -> list[tuple[str, str]]:
    known = [name for name in WORDS if name in trainers.kinds()]
    return [(NAMES.get(name, name), name) for name in dict.fromkeys([*known, *trainers.kinds()])]


def _words(kind: str) -> str:
    return WORDS.get(kind) or (trainers.kinds()[kind].__doc__ or "").partition("\n")[0]
