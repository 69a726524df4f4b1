"""Add the API's endpoints to the page. Programs call them with gradio_client.

Endpoints use the names that the page shows: an adapter's name in the library, a picture's id in the
history, a job's number. Files are sent with gradio_client's `handle_file`. Each endpoint is a
method; the page's API page shows its docstring.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.context import get_blocks_context
from gradio.utils import get_function_description

from studio.workspace import Workspace
from ui.web.api.jobs import JobEndpoints
from ui.web.api.library import LibraryEndpoints
from ui.web.api.pictures import PictureEndpoints
from ui.web.api.values import check_arguments
from ui.web.server.page import show_bad_input

GROUPS = (LibraryEndpoints, PictureEndpoints, JobEndpoints)


def add_endpoints(space: Workspace) -> None:
    """Add every endpoint to the page under construction."""
    for group in GROUPS:
        endpoints = group(space)
        for name in vars(group):
            if not name.startswith("_"):
                _add(name, show_bad_input(check_arguments(getattr(endpoints, name)), shown=str))


def _add(name: str, endpoint: Callable[..., Any]) -> None:
    gr.api(endpoint, api_name=name)
    blocks = get_blocks_context()
    assert blocks
    # Gradio's API page lacks the parameters' descriptions.
    _, descriptions, _ = get_function_description(endpoint)
    parameters: Sequence[Any] = list(blocks.fns.values())[-1].inputs
    for parameter, description in zip(parameters, descriptions.values(), strict=True):
        parameter._api_info["additional_description"] = description
