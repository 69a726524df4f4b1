"""`studio ui`: the page and its server.

The server keeps no state. It starts the two workers and watches them; what it shows is read from
the workspace.
"""

import os
import time
from pathlib import Path

# Gradio reads these when it is imported below.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from starlette.middleware import Middleware

from studio.assets import asset
from studio.errors import BadInput
from studio.queue.client import count_jobs
from studio.queue.job import UNFINISHED
from studio.workspace import Workspace
from ui.shared.terminal import print_note
from ui.shared.training_run import stopping
from ui.web.api.endpoints import add_endpoints
from ui.web.batch.tab import batch_tab
from ui.web.first_run import first_run_html
from ui.web.frontend import MARK, STYLES, script, template
from ui.web.library.tab import library_tab
from ui.web.lightbox import lay_out_lightbox
from ui.web.mix.events import mix_tab
from ui.web.queue.tab import queue_tab
from ui.web.server.downloads import web_folder
from ui.web.server.page import Page
from ui.web.server.polling import status_line
from ui.web.server.security import LoginThrottle, RequestFilter, is_loopback
from ui.web.server.theme import theme
from ui.web.train.tab import train_tab
from ui.worker.processes import workers

ENDING = "Ending: a training that runs saves a checkpoint first."
# Seconds between two looks for new events (Gradio's own value on Windows), and for their progress.
LOOK, LOOK_FOR_PROGRESS = 0.05, 0.25
LARGEST_UPLOAD = "2gb"  # an adapter of a whole SDXL may be this large
TABS = {
    "train": train_tab,
    "mix": mix_tab,
    "batch": batch_tab,
    "library": library_tab,
    "queue": queue_tab,
}


def build(space: Workspace) -> gr.Blocks:
    """The page for a workspace."""
    with gr.Blocks(title="Studio", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        add_endpoints(space)  # first, so that no handler of a tab takes their names
        with gr.Row(elem_classes="studio-top"):
            gr.HTML(template("brand.html").render(), padding=False, elem_id="brand")
            status_line(space, first_run_html)
            gr.HTML(
                template("theme_switch.html").render(),
                js_on_load=script("theme.js"),
                padding=False,
                elem_id="theme",
            )
        shared = gr.State([]), gr.State(None), gr.State(""), lay_out_lightbox()
        with gr.Tabs() as tabs:
            for name, lay_out in TABS.items():
                with gr.Tab(name.capitalize(), id=name) as tab:
                    lay_out(Page(space, tabs, tab, *shared))
    return page


def serve(
    space: Workspace,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: str | None = None,
    inbrowser: bool = False,
) -> None:
    """Serve the page until Ctrl-C.

    auth: "NAME:PASSWORD", needed where other machines can reach the host. port: by default the
    first free one from 7860 on. Raises BadInput where auth is missing or wrong, or no port is free.
    """
    login = check_reach(host, auth)
    os.environ["GRADIO_TEMP_DIR"] = str(web_folder(space))
    page = build(space)
    start_queue(page)
    with workers(space), stopping(ENDING) as stop:
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                auth=login,
                inbrowser=inbrowser,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                allowed_paths=[str(place) for place in _served(space)],
                max_file_size=LARGEST_UPLOAD,
                favicon_path=MARK,
                footer_links=["api"],
                theme=theme(),
                css_paths=STYLES,
                ssr_mode=False,
                _frontend=False,  # else launch fails where the page takes 3 s, as on a busy machine
                app_kwargs={"middleware": _middleware(space, local=is_loopback(host))},
            )
        except OSError as error:
            raise BadInput(
                f"{host} has no free port {port or 'from 7860 on'}: give another --port or --host"
            ) from error
        print_note(f"Studio is at {address} (workspace {space.root}); Ctrl-C ends it")
        while not stop():
            time.sleep(0.2)
        page.close(verbose=False)
    left = count_jobs(space, UNFINISHED)
    rest = f"; {left} job{'s' * (left > 1)} will go on when it is started again" if left else ""
    print_note(f"Studio has ended{rest}")


def start_queue(page: gr.Blocks) -> None:
    """Set up the page's event queue so that it looks for events and progress less often.

    Gradio looks for events a thousand times a second, and for progress a hundred times. That takes
    5 % of a core even while nobody uses the page.
    """
    page.queue(default_concurrency_limit=8)
    page._queue.sleep_when_free = LOOK
    page._queue.progress_update_sleep_when_free = LOOK_FOR_PROGRESS


def check_reach(host: str, auth: str | None) -> tuple[str, str] | None:
    """Name and password from `auth`, or None without it.

    Raises BadInput where `auth` is not NAME:PASSWORD, or others could reach the page without it.
    """
    name, colon, password = (auth or "").partition(":")
    if auth is not None and not (name and colon and password):
        raise BadInput("--auth must be NAME:PASSWORD, and neither may be empty.")
    if auth is None and not is_loopback(host):
        raise BadInput(
            f"On {host} others can reach the page: give --auth NAME:PASSWORD, or leave out --host."
        )
    return (name, password) if auth else None


def _middleware(space: Workspace, *, local: bool) -> list[Middleware]:
    served, downloads = _served(space), web_folder(space)
    checked = Middleware(RequestFilter, pictures=served, downloads=downloads, local=local)
    return [checked, Middleware(LoginThrottle)]


def _served(space: Workspace) -> list[Path]:
    """The folders whose files the page may show."""
    cache = [space.cache / name for name in ("previews", "thumbnails", "live")]
    return [space.pictures, space.uploads, space.runs, *cache, asset("examples").resolve()]
