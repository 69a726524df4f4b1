"""The API for programs, called through gradio_client and described on the page's API page.

Everything goes by the names that the page shows: adapters by their names in the library, pictures
by their ids in the history, jobs by their numbers. Files come as gradio_client's `handle_file`
sends them. Each endpoint is a method; its docstring is the endpoint's description.
"""

import gradio as gr

from studio.workspace import Workspace
from ui.web.server.api_jobs import JobEndpoints
from ui.web.server.api_library import LibraryEndpoints
from ui.web.server.api_pictures import PictureEndpoints
from ui.web.server.api_values import check_arguments
from ui.web.server.page import show_bad_input

GROUPS = (LibraryEndpoints, PictureEndpoints, JobEndpoints)


def add_endpoints(space: Workspace) -> None:
    """Add every endpoint to the page under construction."""
    for group in GROUPS:
        endpoints = group(space)
        for name in vars(group):
            if not name.startswith("_"):
                checked = check_arguments(getattr(endpoints, name))
                gr.api(show_bad_input(checked, shown=str), api_name=name)
