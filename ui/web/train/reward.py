"""The part of the tab Train for alignment: the reward, the reward's own options, and the limit."""

from dataclasses import dataclass, fields

import gradio as gr

import trainers
from ui.shared.form import Form, form_with
from ui.web.frontend import KIND_NAMES
from ui.web.server.fields import FieldWidgets, field_widgets

ALIGN = "align"  # the adapter type that stands for all rewards
FIRST = "tile"  # a reward with no options of its own: its options are those that all rewards have
LIMIT = "limit"  # shown beside the reward; "Options of the adapter type" has the other shared ones


@dataclass(frozen=True)
class RewardWidgets:
    """The widgets.

    name: chooses the reward. limit: the limit of any reward. own, groups: by reward, the widgets
    of its own options and their container; a reward without own options has none.
    """

    group: gr.Group
    name: gr.Dropdown
    limit: FieldWidgets
    own: dict[str, FieldWidgets]
    groups: dict[str, gr.Group]

    def with_shared(self, shared: FieldWidgets) -> dict[str, FieldWidgets]:
        """All widgets of each reward. shared: the widgets of `shared_form`."""
        every = trainers.reward_kinds().items()
        return {
            name: FieldWidgets(Form(kind), {**shared, **self.limit, **self.own.get(name, {})})
            for name, kind in every
        }


def lay_out_rewards() -> RewardWidgets:
    """Lay the widgets out, hidden."""
    own, groups, every = {}, {}, trainers.reward_kinds()
    shared = _names(FIRST)
    with gr.Group(visible=False) as group:
        with gr.Row(elem_classes="studio-line"):
            name = gr.Dropdown(
                [(_label(reward), reward) for reward in every],
                value=FIRST,
                label="Reward",
                info=description(FIRST),
            )
            limit = field_widgets(form_with(every[FIRST], [LIMIT]))
        for reward, kind in every.items():
            if names := _names(reward) - shared:
                with gr.Group(visible=False) as groups[reward]:
                    own[reward] = field_widgets(form_with(kind, names))
    return RewardWidgets(group, name, limit, own, groups)


def description(reward: str) -> str:
    """What a reward rewards."""
    return (trainers.reward_kinds()[reward].__doc__ or "").strip()


def shared_form() -> Form:
    """The options that all rewards have, without the limit."""
    return form_with(trainers.reward_kinds()[FIRST], _names(FIRST) - {LIMIT})


def _names(reward: str) -> set[str]:
    return {field.name for field in fields(trainers.reward_kinds()[reward])}


def _label(reward: str) -> str:
    name = KIND_NAMES.get(reward, reward).rpartition(": ")[2]
    return name[:1].upper() + name[1:]
