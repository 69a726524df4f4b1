"""The part of the tab Train for alignments: the reward, its own options, and the limit."""

from dataclasses import dataclass, fields

import gradio as gr

import trainers
from ui.shared.form import Form, form_with
from ui.web.frontend import KIND_NAMES
from ui.web.server.fields import FieldWidgets, field_widgets

ALIGN = "align"  # the adapter type that stands for all rewards
FIRST = "tile"  # has no options of its own
LIMIT = "limit"  # beside the reward; what else all rewards have is among the adapter type's options


@dataclass(frozen=True)
class RewardWidgets:
    """The reward's name; its own widgets and their container, if any, by name; the limit of all."""

    group: gr.Group
    name: gr.Dropdown
    limit: FieldWidgets
    own: dict[str, FieldWidgets]
    groups: dict[str, gr.Group]

    def with_shared(self, shared: FieldWidgets) -> dict[str, FieldWidgets]:
        """All widgets of each reward. shared: those of `shared_form`."""
        every = trainers.reward_kinds().items()
        return {
            name: FieldWidgets(Form(kind), {**shared, **self.limit, **self.own.get(name, {})})
            for name, kind in every
        }


def lay_out_rewards() -> RewardWidgets:
    """Lay it out, hidden."""
    own, groups, every = {}, {}, trainers.reward_kinds()
    others = _names(FIRST)
    with gr.Group(visible=False) as group:
        with gr.Row(elem_classes="studio-line"):
            name = gr.Dropdown(
                [(_label(one), one) for one in every],
                value=FIRST,
                label="Reward",
                info=description(FIRST),
            )
            limit = field_widgets(form_with(every[FIRST], [LIMIT]))
        for one, kind in every.items():
            if names := _names(one) - others:
                with gr.Group(visible=False) as groups[one]:
                    own[one] = field_widgets(form_with(kind, names))
    return RewardWidgets(group, name, limit, own, groups)


def description(reward: str) -> str:
    """What it rewards."""
    return (trainers.reward_kinds()[reward].__doc__ or "").strip()


def shared_form() -> Form:
    """The options of all rewards, but the limit."""
    return form_with(trainers.reward_kinds()[FIRST], _names(FIRST) - {LIMIT})


def _names(reward: str) -> set[str]:
    return {one.name for one in fields(trainers.reward_kinds()[reward])}


def _label(reward: str) -> str:
    said = KIND_NAMES.get(reward, reward).rpartition(": ")[2]
    return said[:1].upper() + said[1:]
