"""The page opens, and others than this machine only reach it with a password."""

import errno
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio.block_function import BlockFunction
from playwright.sync_api import Page, expect
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from studio.errors import BadInput
from studio.workspace import open_workspace
from tests.ui.web.conftest import ROOT, in_a_loop, open_tab
from ui.cli.web import read_login
from ui.web.server import app
from ui.web.server.app import LOOK, LOOK_FOR_PROGRESS, build, check_reach, start_queue
from ui.web.server.page import show_bad_input
from ui.web.server.security import LoginThrottle

TABS = ("Train", "Mix", "Batch", "Library", "Queue")


def test_every_tab_opens(shared_page: Page) -> None:
    for name in TABS:
        open_tab(shared_page, name)
        expect(shared_page.get_by_role("tab", name=name, selected=True)).to_be_visible()


def test_the_theme_that_was_chosen_stays(shared_page: Page) -> None:
    page, dark = shared_page, re.compile(r"\bdark\b")
    page.get_by_role("button", name="Dark theme").click()
    expect(page.locator("body")).to_have_class(dark)
    page.reload()
    expect(page.get_by_role("button", name="Dark theme", pressed=True)).to_be_visible()
    expect(page.locator("body")).to_have_class(dark)
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Light theme").click()
    expect(page.locator("body")).not_to_have_class(dark)
    page.get_by_role("button", name="System theme").click()
    expect(page.locator("body")).to_have_class(dark)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.0.1"])
def test_this_machine_needs_no_password(host: str) -> None:
    assert check_reach(host, None) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "my-machine", ""])
def test_others_need_one(host: str) -> None:
    with pytest.raises(BadInput, match="--auth NAME:PASSWORD"):
        check_reach(host, None)
    assert check_reach(host, "ann:se:cret") == ("ann", "se:cret")


@pytest.mark.parametrize("auth", ["", "ann", ":", "ann:", ":secret"])
def test_half_a_login_is_refused(auth: str) -> None:
    with pytest.raises(BadInput, match="NAME:PASSWORD"):
        check_reach("127.0.0.1", auth)


SERVED = """
import contextlib, sys
from gradio import networking
from studio.workspace import open_workspace
from ui.web.server import app

networking.url_ok = lambda url: False  # Gradio's look at its own page: the machine is too busy
app.workers = lambda space: contextlib.nullcontext()
app.serve(open_workspace(sys.argv[1]), port=int(sys.argv[2]), auth="ann:secret")
"""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """A server with a password: its port, and what it says of where it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    space = tmp_path_factory.mktemp("locked") / "space"
    words = [sys.executable, "-c", SERVED, str(space), str(port)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        yield port, next(one for one in server.stderr if "Studio is at" in one or "Error" in one)
        server.send_signal(signal.SIGINT)
        server.stderr.read()
    assert server.returncode == 0


@pytest.mark.parametrize(
    "path", ["config", "gradio_api/info", "gradio_api/queue/data", "gradio_api/component_server"]
)
def test_with_a_password_nothing_is_told_without_it(path: str, locked: tuple[int, str]) -> None:
    address = f"http://127.0.0.1:{locked[0]}"
    ask = httpx.post if path.endswith("server") else httpx.get
    assert ask(f"{address}/{path}").status_code == 401
    with httpx.Client(base_url=address) as known:
        wrong = {"username": "ann", "password": "guessed"}
        assert known.post("/login", data=wrong).status_code == 400
        assert known.get("/config").status_code == 401
        known.post("/login", data=wrong | {"password": "secret"}).raise_for_status()
        assert known.get("/config").status_code == 200


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    """The page without a server."""

    async def build_page() -> gr.Blocks:
        return build(open_workspace(tmp_path_factory.mktemp("built")))

    return in_a_loop(build_page)


def test_no_file_is_dropped_in_silence_while_another_is_read(built: gr.Blocks) -> None:
    uploads = [one for one in built.fns.values() if "upload" in _events(one)]
    modes = {str(one.name): str(one.trigger_mode) for one in uploads}
    reads = {"_import_files", "_add", "_take_cover", "read", "open_file"}
    assert modes.keys() == reads | {"_tell_reading"}
    assert modes["_import_files"] == modes["_add"] == "multiple"
    assert "once" not in modes.values()


def test_the_page_is_sent_plain_numbers(built: gr.Blocks) -> None:
    """Gradio sends a subclass of float as text, which no slider takes back."""

    def others(value: object) -> Iterator[object]:
        if isinstance(value, dict | list | tuple):
            for one in value.values() if isinstance(value, dict) else value:
                yield from others(one)
        elif isinstance(value, float) and type(value) is not float:
            yield value

    assert not [*others(built.get_config_file())]


def test_progress_that_is_hidden_belongs_to_no_component(built: gr.Blocks) -> None:
    """Else the browser walks the page for each output of each event so far, at every event."""
    events: list[dict] = built.get_config_file()["dependencies"]  # pyright: ignore
    private = [one for one in events if one["api_visibility"] == "private"]
    hidden = [one for one in private if one["show_progress"] == "hidden"]
    assert len(hidden) > 100 and not any(one["show_progress_on"] != [] for one in hidden)


def _events(function: BlockFunction) -> list[str]:
    return [event for _, event in function.targets]


def test_a_toast_shows_names_as_text_and_a_full_disk_as_a_sentence() -> None:
    def refuse() -> None:
        raise BadInput("there is no <img src=//elsewhere/x.png>'s name")

    def fill() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/space/uploads")

    with pytest.raises(gr.Error, match=r"no &lt;img src=//elsewhere/x.png&gt;'s name"):
        show_bad_input(refuse)()
    with pytest.raises(gr.Error, match=r"no <img src=//elsewhere/x.png>'s name"):
        show_bad_input(refuse, shown=str)()
    with pytest.raises(gr.Error, match="/space/uploads: No space left on device"):
        show_bad_input(fill)()


def test_an_idle_server_seldom_looks_for_events() -> None:
    async def made() -> tuple[float, float]:
        with gr.Blocks() as page:
            gr.Markdown("")
        before = looks(page)  # by the names that Gradio has for them
        start_queue(page)
        assert before[0] < LOOK and before[1] < LOOK_FOR_PROGRESS
        return looks(page)

    def looks(page: gr.Blocks) -> tuple[float, float]:
        return page._queue.sleep_when_free, page._queue.progress_update_sleep_when_free

    assert in_a_loop(made) == (LOOK, LOOK_FOR_PROGRESS)


def test_passwords_cannot_be_tried_without_end() -> None:
    async def gradio(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("", status_code=200 if b"right" in scope["query_string"] else 400)(
            scope, receive, send
        )

    def answers(address: str, *tries: str) -> list[int]:
        asked = TestClient(throttled, client=(address, 1))
        return [asked.post("/login/", params={"password": one}).status_code for one in tries]

    throttled = LoginThrottle(gradio)
    assert answers("10.0.0.1", *["wrong"] * 9, "right", "wrong") == [400] * 9 + [200, 400]
    assert answers("10.0.0.2", *["wrong"] * 12, "right") == [400] * 10 + [429] * 3
    assert answers("10.0.0.1", "right") == [200]


def test_a_login_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "login").write_text("ann:se cret\n")
    assert read_login(None, tmp_path / "login") == "ann:se cret"
    assert read_login("ann:secret", None) == "ann:secret"
    with pytest.raises(BadInput, match="--auth or --auth-file"):
        read_login("ann:secret", tmp_path / "login")
    with pytest.raises(BadInput, match="cannot be read"):
        read_login(None, tmp_path / "nothing")


def test_a_port_that_is_taken_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(**_: object) -> None:  # as Gradio does then, which leaves a socket open
        raise OSError("Cannot find empty port in range: 7999-7999.")

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(app, "build", lambda _: SimpleNamespace(launch=launch))
    for name in ("start_queue", "workers"):
        monkeypatch.setattr(app, name, lambda _: nullcontext())
    with pytest.raises(BadInput, match="no free port 7999: give another --port"):
        app.serve(open_workspace(tmp_path / "space"), port=7999)


def test_a_machine_too_busy_to_answer_at_once_serves_all_the_same(locked: tuple[int, str]) -> None:
    port, said = locked
    assert f"Studio is at http://127.0.0.1:{port}" in said
