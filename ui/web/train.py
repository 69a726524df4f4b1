"""The tab Train: pictures, what is to be learned of them and how, and the trainings at work."""

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

import trainers
from studio.errors import BadInput
from studio.outline import Outline, outline
from studio.workspace import Workspace, add_base, get_set, list_bases
from ui._queue import queue_training
from ui.web._fields import values
from ui.web._page import Page, told
from ui.web._train_compare import comparison, wire_comparison
from ui.web._train_options import (
    ELSEWHERE,
    NAMES,
    SHOWN,
    STEPS,
    WORDS,
    Options,
    asked,
    options,
    preset,
    shown,
)
from ui.web._train_pictures import Pictures, pictures, wire_pictures
from ui.web._train_runs import Seen, look, runs, wire_runs

__all__ = ["train_tab"]


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
                    placeholder=_sample_prompts("the trigger"),
                    scale=2,
                )
            more = options(space)
            plan = gr.HTML(padding=False)
            start = gr.Button("Train", variant="primary", size="lg")
        with gr.Column(scale=6, min_width=320, elem_id="studio-runs"):
            seen = runs(space)
            grid = comparison()
    wire_pictures(space, own, trigger, base, more.recipe)
    wire_runs(page, seen)
    wire_comparison(page, grid, seen)
    _wire_kind(space, kind, base, steps, more, plan)

    @told
    def begin(data: Mapping[Component, Any]) -> list[Any]:
        job = _queue(space, own, more, data, trigger, base, kind, steps, sampled)
        return look(space, job, Seen())

    start.click(
        begin,
        {own.sets, trigger, base, kind, steps, sampled, *more.all()},
        seen.looked,
        api_visibility="private",
    ).success(None, js="() => document.getElementById('studio-runs').scrollIntoView()")
    trigger.change(
        lambda words: gr.Textbox(placeholder=_sample_prompts(words or "the trigger")),
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

    def choose(kind: str, source: str, steps: str) -> list[Any]:
        made = trainers.kinds()[kind]()
        number = int(steps) if steps.strip().isdecimal() else None
        try:
            known = outline(source)
        except BadInput as error:
            known, said = None, str(error)
        else:
            said = _plan(made, known, number)
        told = shown(made, known, number)
        start = preset(made, known)
        return [
            gr.Radio(info=_words(kind)),
            gr.Textbox(placeholder=str(start.steps)),
            f'<p class="quiet">{said}</p>',
            *(gr.Group(visible=name == kind) for name in more.groups),
            *(told[name] for name in SHOWN),
        ]

    @told
    def settle(source: str) -> Any:
        if source in {one for _, one in _bases(space)}:
            return gr.skip()
        known = add_base(space, source.strip())
        return gr.Dropdown(_bases(space), value=known.source)

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    base.input(settle, base, base, **hidden)
    gr.on(
        None,
        choose,
        [kind, base, steps],
        [kind, steps, plan, *more.groups.values(), *(more.recipe[name] for name in SHOWN)],
        **hidden,
    )


def _queue(
    space: Workspace,
    own: Pictures,
    more: Options,
    data: Mapping[Component, Any],
    trigger: gr.Textbox,
    base: gr.Dropdown,
    kind: gr.Radio,
    steps: gr.Textbox,
    sampled: gr.Textbox,
) -> int:
    """Queue the training that was asked for; its job's number. Raises BadInput."""
    if not data[own.sets]:
        raise BadInput("choose pictures first: drop some in, or take an example")
    words = data[trigger].strip()
    given = asked(space, more, data[kind], data)
    number = values(STEPS, {"steps": data[steps]})
    start = preset(given["kind"], outline(data[base]), number.get("steps"))
    prompts = data[sampled] or _sample_prompts(words)
    recipe = {
        "sample_every": start.sample_every,
        "save_every": start.save_every,
        "sample_prompts": [line.strip() for line in prompts.splitlines() if line.strip()],
        **number,
        **given.pop("recipe"),
    }
    job = queue_training(
        space,
        given.pop("kind"),
        get_set(space, data[own.sets]).path,
        trigger=words,
        base=data[base],
        recipe=recipe,
        **given,
    )
    return job.id


def _plan(kind: trainers.Kind, base: Outline | None, steps: int | None) -> str:
    start = preset(kind, base, steps)
    if base is None:
        return "The base is downloaded when it is first used; what suits it is known then."
    return (
        f"{start.steps} steps of {start.batch * start.accumulation} pictures at "
        f"{base.size} pixels, learning rate {start.lr:g}"
    )


def _bases(space: Workspace) -> list[tuple[str, str]]:
    return [(f"{one.name} ({one.family or 'new'})", one.source) for one in list_bases(space)]


def _kinds() -> list[tuple[str, str]]:
    known = [name for name in WORDS if name in trainers.kinds()]
    return [(NAMES.get(name, name), name) for name in dict.fromkeys([*known, *trainers.kinds()])]


def _words(kind: str) -> str:
    return WORDS.get(kind) or (trainers.kinds()[kind].__doc__ or "").partition("\n")[0]


def _sample_prompts(trigger: str) -> str:
    return f"{trigger}\n{trigger}{ELSEWHERE}"
