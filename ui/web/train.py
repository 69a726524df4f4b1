"""The tab Train: pictures, what is to be learned of them and how, and the trainings at work."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

import trainers
from studio.errors import BadInput
from studio.outline import Outline, outline
from studio.workspace import Workspace, add_base, get_set, list_bases
from ui._estimating import Asked, estimated
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
from ui.web._train_pictures import pictures, wire_pictures
from ui.web._train_runs import Seen, look, runs, wire_runs

__all__ = ["train_tab"]

Data = Mapping[Component, Any]
Table = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """The widgets that say what is to be trained, and how."""

    sets: gr.Dropdown
    trigger: gr.Textbox
    base: gr.Dropdown
    kind: gr.Radio
    steps: gr.Textbox
    sampled: gr.Textbox
    more: Options

    def all(self) -> set[Component]:
        """Every one of them."""
        own = (self.sets, self.trigger, self.base, self.kind, self.steps, self.sampled)
        return {*own, *self.more.all()}


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
            cost = gr.HTML(padding=False, visible=False)
            start = gr.Button("Train", variant="primary", size="lg")
        with gr.Column(scale=6, min_width=320, elem_id="studio-runs"):
            seen = runs(space)
            grid = comparison()
    wire_pictures(space, own, trigger, base, more.recipe)
    wire_runs(page, seen)
    wire_comparison(page, grid, seen)
    _wire_kind(space, kind, base, steps, more, plan)

    form = Form(own.sets, trigger, base, kind, steps, sampled, more)

    @told
    def begin(data: Data) -> list[Any]:
        return look(space, _queue(space, form, data), Seen())

    start.click(begin, form.all(), seen.looked, api_visibility="private").success(
        None, js="() => document.getElementById('studio-runs').scrollIntoView()"
    )
    _wire_cost(space, form, cost)
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

    def choose(kind: str, source: str | None, steps: str | None) -> list[Any]:
        made = trainers.kinds()[kind]()
        number = int(steps) if (steps or "").strip().isdecimal() else None
        try:
            known = outline(source or "")
        except BadInput as error:
            known, said = None, str(error)
        else:
            said = _plan(made, known, number)
        told = shown(made, known, number)
        start = preset(made, known)
        return [
            gr.Radio(info=_words(kind)),
            gr.Textbox(placeholder=str(start.steps)),
            f'<p class="quiet">{escape(said)}</p>',
            *(gr.Group(visible=name == kind) for name in more.groups),
            *(told[name] for name in SHOWN),
        ]

    @told
    def settle(source: str | None) -> Any:
        if not source or source in {one for _, one in _bases(space)}:
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


def _wire_cost(space: Workspace, form: Form, cost: gr.HTML) -> None:
    """Say what the training will take, once there are pictures for it."""

    def tell(data: Data) -> Iterator[Any]:
        if not data[form.sets]:
            yield gr.HTML(visible=False)
            return
        yield gr.HTML('<p class="quiet">Working out time and memory</p>', visible=True)
        try:
            said = escape(_cost(space, form, data))
        except BadInput as error:
            yield gr.HTML(f'<p class="problem">{escape(str(error))}</p>')
        else:
            yield gr.HTML(f'<p class="studio-cost">{said}</p>' if said else "", visible=bool(said))

    options = form.more.deciding()
    texts = [one.blur for one in [form.steps, *options] if isinstance(one, gr.Textbox)]
    others = [one.change for one in options if not isinstance(one, gr.Textbox)]
    gr.on(
        [form.sets.change, form.kind.change, form.base.change, form.steps.submit, *texts, *others],
        tell,
        form.all(),
        cost,
        trigger_mode="always_last",
        concurrency_limit=1,
        show_progress="hidden",
        api_visibility="private",
    )


def _cost(space: Workspace, form: Form, data: Data) -> str:
    """Time and memory in a sentence; "" for a base that is not here yet. Raises BadInput."""
    base = outline(data[form.base] or "")
    if base is None:
        return ""
    given = asked(space, form.more, data[form.kind], data)
    told = Asked.of(
        space,
        given["kind"],
        base,
        pictures=len(get_set(space, data[form.sets]).pictures),
        recipe=_recipe(form, data, given, base),
        dtype=given["loading"].get("dtype", "auto"),
    )
    said = estimated(space, told)
    return f"{said[:1].upper()}{said[1:]}"


def _queue(space: Workspace, form: Form, data: Data) -> int:
    """Queue the training that was asked for; its job's number. Raises BadInput."""
    if not data[form.sets]:
        raise BadInput("choose pictures first: drop some in, or take an example")
    given = asked(space, form.more, data[form.kind], data)
    recipe = _recipe(form, data, given, outline(data[form.base] or ""))
    job = queue_training(
        space,
        given.pop("kind"),
        get_set(space, data[form.sets]).path,
        trigger=(data[form.trigger] or "").strip(),
        base=data[form.base] or "",
        **given | {"recipe": recipe},
    )
    return job.id


def _recipe(form: Form, data: Data, given: Mapping[str, Any], base: Outline | None) -> Table:
    """What differs from where a training of this kind on this base starts from."""
    number = values(STEPS, {"steps": data[form.steps]})
    start = preset(given["kind"], base, number.get("steps"))
    prompts = data[form.sampled] or _sample_prompts((data[form.trigger] or "").strip())
    return {
        "sample_every": start.sample_every,
        "save_every": start.save_every,
        "sample_prompts": [line.strip() for line in prompts.splitlines() if line.strip()],
        **number,
        **given["recipe"],
    }


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
