"""The tab Train: pictures, the settings of a training, and the trainings."""

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

import trainers
from studio.bases.info import BaseInfo, read_base_info
from studio.errors import BadInput
from studio.queue.client import get_job
from studio.workspace import Workspace, add_base, list_bases
from ui.web.first_run import first_run
from ui.web.frontend import KIND_NAMES, ONCE, paragraph, sentence
from ui.web.server.kept_form import KeptForm
from ui.web.server.page import Page, Update, Values, as_html, on
from ui.web.train.compare import ComparisonPanel
from ui.web.train.dataset.picture_sets import set_choices
from ui.web.train.dataset.pictures import PicturePanel
from ui.web.train.options import (
    DESCRIPTIONS,
    SHOWN,
    adapter_choices,
    lay_out_options,
    preset,
    preset_placeholders,
    prior_choices,
    shown_kinds,
)
from ui.web.train.prompts import lay_out_prompts
from ui.web.train.request import (
    TrainForm,
    cost,
    find_problem,
    from_prompts,
    pictures_of,
    queue,
    sample_prompts,
)
from ui.web.train.reuse import settings_of
from ui.web.train.reward import ALIGN, description, lay_out_rewards
from ui.web.train.runs import RunPanel, select_run

PROMPT = "a photo of a cat on a sofa"
# The fields of a recipe that the summary above the button Train shows.
SUMMARY = ("steps", "batch", "accumulation", "lr", "size")


def train_tab(page: Page) -> None:
    """Lay the tab out and wire its events."""
    space = page.space
    with gr.Row(equal_height=False, elem_classes="columns"):
        with gr.Column(scale=5, min_width=320, elem_classes="studio-panel", elem_id="studio-form"):
            with gr.Column() as panel:
                pictures = PicturePanel(space)
            form = _lay_out_form(space, pictures.sets)
            summary, problem = gr.HTML(padding=False), gr.HTML(padding=False, visible=False)
            estimate = gr.HTML(padding=False, visible=False)
            start = gr.Button("Train", variant="primary", size="lg", elem_classes=ONCE)
        with gr.Column(scale=6, min_width=320, elem_id="studio-runs"):
            first_run(page)
            runs = RunPanel(space)
            comparison = ComparisonPanel(space)
    pictures.wire(form.trigger, form.base, form.more.recipe, page.example)
    runs.wire(page)
    comparison.wire(page, runs)
    _wire_form(space, form)
    _wire_summary(form, summary)
    _wire_kind(form, [panel, form.trigger])
    _wire_check(space, form, [problem, summary, start])
    _wire_estimate(space, form, estimate)
    pictures.show_after(_wire_kept(space, form))

    def begin(data: Values) -> list[Any]:
        return select_run(space, queue(space, form, data))

    begun = on(start.click, begin, form.all(), runs.updated)

    def reuse(job: int) -> dict[Any, Any]:
        update, missing = settings_of(space, form, get_job(space, job))
        for problem in missing:
            gr.Warning(as_html(problem), title="Not all settings are here")
        return update

    filled = on(runs.reuse.click, reuse, runs.jobs, list(form.all()))
    pictures.show_after(filled)
    on(filled.success, None, js="() => document.querySelector('#studio-form').scrollIntoView()")
    on(begun.success, None, js="() => document.getElementById('studio-runs').scrollIntoView()")


def _lay_out_form(space: Workspace, sets: gr.Dropdown) -> TrainForm:
    with gr.Row(elem_classes="studio-line"):
        trigger = gr.Textbox(
            label="Trigger words",
            info="Words that will call it up in a prompt",
            placeholder="sks robot",
            max_length=200,
        )
        base = gr.Dropdown(
            _base_choices(space),
            value="sketch",
            label="Base model",
            info="Or type a Hugging Face id, folder or file",
            allow_custom_value=True,
        )
    kind = gr.Radio(_kind_choices(), value="lora", label="Adapter type", info=_description("lora"))
    reward, prompted = lay_out_rewards(), lay_out_prompts(space)
    with gr.Row(elem_classes="studio-line"):
        steps = gr.Textbox(label="Steps", info="How long to train")
        prompts = gr.Textbox(
            label="Sample prompts",
            info="One a line, drawn now and then to show the progress",
            lines=2,
            max_lines=4,
            placeholder=sample_prompts("trigger words"),
            scale=2,
        )
    more = lay_out_options(space, steps, reward)
    return TrainForm(sets, trigger, base, kind, steps, prompts, reward, prompted, more)


def _wire_form(space: Workspace, form: TrainForm) -> None:
    def add_typed_base(source: str | None) -> Any:
        if not source or source in {known for _, known in _base_choices(space)}:
            return gr.skip()
        added = add_base(space, source.strip())
        return gr.Dropdown(_base_choices(space), value=added.source)

    def suggest_prompts(trigger: str | None) -> gr.Textbox:
        return gr.Textbox(placeholder=sample_prompts(trigger or "trigger words"))

    on(form.base.input, add_typed_base, form.base, form.base)
    # Not at every letter, since each event costs time. An example button changes trigger and set.
    on([form.trigger.blur, form.sets.change], suggest_prompts, form.trigger, form.sampled)


def _wire_kind(form: TrainForm, others: list[Any]) -> None:
    """Show what the chosen adapter type learns from: pictures, prompts or a reward.

    others: the components for pictures that are not options.
    """
    of_pictures = [*others, *form.more.of_pictures()]

    def show(kind: str, trigger: str | None) -> list[Any]:
        prompted = from_prompts(kind)
        placeholder = PROMPT if prompted else sample_prompts(trigger or "trigger words")
        visible = (gr.update(visible=not prompted) for _ in of_pictures)
        groups = gr.Group(visible=kind == ALIGN), gr.Group(visible=prompted)
        return [*groups, gr.Textbox(placeholder=placeholder), *visible]

    shown = [form.reward.group, form.prompted.group, form.sampled, *of_pictures]
    on(form.kind.change, show, [form.kind, form.trigger], shown)

    def show_reward(chosen: str) -> list[Any]:
        groups = (gr.Group(visible=name == chosen) for name in form.reward.groups)
        return [gr.Dropdown(info=description(chosen)), *groups]

    reward = form.reward.name
    on(reward.change, show_reward, reward, [reward, *form.reward.groups.values()])


def _wire_summary(form: TrainForm, summary: gr.HTML) -> None:
    """Show the options of the adapter type, with the presets for this base as placeholders."""
    more = form.more

    def update(kind: str, source: str | None, *texts: str | None) -> list[Any]:
        plain = shown_kinds()[kind]()
        numbers = map(_positive_number, texts)
        given: dict[str, float | None] = dict(zip(SUMMARY, numbers, strict=True))
        try:
            base = read_base_info(source or "")
            text = _summary(plain, base, given)
        except BadInput as error:
            base, text = None, sentence(str(error))
        if any(typed and not number for typed, number in zip(texts, given.values(), strict=True)):
            text = ""  # `_wire_check` names the wrong field once the user leaves it
        steps = int(given["steps"]) if given["steps"] else None
        placeholders = preset_placeholders(plain, base, steps)
        return [
            gr.Radio(info=_description(kind)),
            gr.Textbox(placeholder=str(preset(plain, base).steps)),
            paragraph(text),
            *(gr.Group(visible=name == kind) for name in more.groups),
            *(placeholders[name] for name in SHOWN),
        ]

    inputs = [form.kind, form.base, form.steps, *(more.recipe[name] for name in SUMMARY[1:])]
    shown = [*more.groups.values(), *(more.recipe[name] for name in SHOWN)]
    on(None, update, inputs, [form.kind, form.steps, summary, *shown])


def _wire_check(space: Workspace, form: TrainForm, shown: list[Any]) -> None:
    """Say which fields are wrong. While there are any, hide the summary and disable the button.

    shown: the problem, the summary and the button.
    """

    def check_form(data: Values) -> list[Any]:
        wrong = find_problem(space, form, data)
        problem = gr.HTML(paragraph(wrong, "problem"), visible=bool(wrong))
        return [problem, gr.HTML(visible=not wrong), gr.Button(interactive=not wrong)]

    on(_settled(form), check_form, form.all(), shown, mode="always_last")


def _settled(form: TrainForm) -> list[Any]:
    """The events of finished input: a choice is made, or the user leaves a text field."""
    options: list[Any] = form.more.deciding()
    texts = [widget.blur for widget in options if isinstance(widget, gr.Textbox)]
    others = [widget.change for widget in options if not isinstance(widget, gr.Textbox)]
    chosen = [form.sets.change, form.kind.change, form.base.change, form.steps.submit]
    chosen.append(form.reward.name.change)
    return [*chosen, *texts, *others]


def _wire_estimate(space: Workspace, form: TrainForm, estimate: gr.HTML) -> None:
    """Estimate time and memory once pictures are chosen, and say which files are left out."""

    def update(data: Values) -> Iterator[Any]:
        prompted = from_prompts(data[form.kind])
        if not (data[form.sets] or prompted) or find_problem(space, form, data):
            yield gr.HTML(visible=False)
            return
        yield gr.HTML(paragraph("Estimating time and memory…"), visible=True)
        try:
            remarks = [] if prompted else pictures_of(space, data[form.sets]).remarks()
            lines = [paragraph(line, "problem") for line in remarks]
            if text := cost(space, form, data):
                lines.append(paragraph(text, "studio-cost"))
        except BadInput as error:
            lines = [paragraph(sentence(str(error)), "problem")]
        yield gr.HTML("".join(lines), visible=bool(lines))

    on(_settled(form), update, form.all(), estimate, mode="always_last", queue="estimates")


def _wire_kept(space: Workspace, form: TrainForm) -> Dependency:
    """Keep the form when the page is reloaded, and renew the choices of its lists."""

    def restore(stored: dict[Component, Any]) -> Update:
        update: Update = {widget: gr.update(value=value) for widget, value in stored.items()}
        for widget, choices in _current_choices(space, form).items():
            value, known = stored.get(widget, widget.value), [value for _, value in choices]
            if value not in known and not widget.allow_custom_value:
                value = known[0] if widget is form.sets else ""
            # A value that the page has already is not sent: the user may have changed it meanwhile.
            same = value == widget.value
            update[widget] = gr.Dropdown(choices) if same else gr.Dropdown(choices, value=value)
        return update

    kept = KeptForm(space, "train", form.all())
    return kept.wire(restore, form.all())


def _current_choices(space: Workspace, form: TrainForm) -> dict[gr.Dropdown, list[tuple[str, str]]]:
    return {
        form.sets: set_choices(space),
        form.base: _base_choices(space),
        form.more.init: adapter_choices(space),
        form.more.prior: prior_choices(space),
    }


def _summary(kind: trainers.Kind, base: BaseInfo | None, given: Mapping[str, float | None]) -> str:
    """A sentence on steps, batch, size and learning rate.

    given: values by field, None where the field is empty; then the preset's value counts.
    """
    if base is None:
        return "This base is downloaded when first used; its usual settings are known then."
    start = preset(kind, base)
    learned = "prompts" if kind.unused else "pictures"
    steps, batch, parts, lr = (given[name] or getattr(start, name) for name in SUMMARY[:-1])
    return (
        f"{steps:g} steps with {batch * parts:g} {learned} each, at "
        f"{given['size'] or base.size:g} pixels and a learning rate of {lr:g}"
    )


def _positive_number(text: str | None) -> float | None:
    """The number that was typed; None for any other text, which `find_problem` refuses."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def _base_choices(space: Workspace) -> list[tuple[str, str]]:
    return [(f"{base.name} ({base.family or 'new'})", base.source) for base in list_bases(space)]


def _kind_choices() -> list[tuple[str, str]]:
    every = shown_kinds()
    known = [name for name in DESCRIPTIONS if name in every]
    return [(KIND_NAMES.get(name, name), name) for name in dict.fromkeys([*known, *every])]


def _description(kind: str) -> str:
    return DESCRIPTIONS.get(kind) or (shown_kinds()[kind].__doc__ or "").partition("\n")[0]
