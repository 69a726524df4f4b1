"""The API for programs, called through gradio_client and described on the page's API page.

Everything goes by the names that the page shows: adapters by their names in the library, pictures
by their ids in the history, jobs by their numbers. Files come as gradio_client's `handle_file`
sends them. Each endpoint is a method; its docstring describes the endpoint and its parameters.
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
    # Gradio leaves the parameters' descriptions out of what it tells of an endpoint.
    _, described, _ = get_function_description(endpoint)
    parameters: Sequence[Any] = list(blocks.fns.values())[-1].inputs
    for parameter, words in zip(parameters, described.values(), strict=True):
        parameter._api_info["additional_description"] = words
