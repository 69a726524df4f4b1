"""The page opens, and others than this machine only reach it with a password."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from studio.errors import BadInput
from tests.ui.web.conftest import ROOT, open_tab
from ui.web.server.app import check_reach

TABS = ("Train", "Mix", "Batch", "Library")


def test_every_tab_opens(page: Page) -> None:
    for name in TABS:
        open_tab(page, name)
        expect(page.get_by_role("tab", name=name, selected=True)).to_be_visible()


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


SLOW = """
import contextlib, sys
from gradio import networking
from studio.workspace import open_workspace
from ui.web.server import app

networking.url_ok = lambda url: False  # Gradio's look at its own page, of three seconds
app.workers = lambda space: contextlib.nullcontext()
app.serve(open_workspace(sys.argv[1]), port=int(sys.argv[2]))
"""


SERVED = """
import contextlib, sys
from studio.workspace import open_workspace
from ui.web.server import app

app.workers = lambda space: contextlib.nullcontext()
app.serve(open_workspace(sys.argv[1]), port=int(sys.argv[2]), auth="ann:secret")
"""


@contextmanager
def _server(program: str, folder: Path) -> Iterator[tuple[int, str]]:
    """A program that serves on a port; the port, and what it says of where it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", program, str(folder / "space"), str(port)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        yield port, next(one for one in server.stderr if "Studio is at" in one or "Error" in one)
        server.send_signal(signal.SIGINT)
        server.stderr.read()
    assert server.returncode == 0


@pytest.mark.parametrize(
    "path", ["config", "gradio_api/info", "gradio_api/queue/data", "gradio_api/component_server"]
)
def test_with_a_password_nothing_is_told_without_it(path: str, locked: int) -> None:
    address = f"http://127.0.0.1:{locked}"
    ask = httpx.post if path.endswith("server") else httpx.get
    assert ask(f"{address}/{path}").status_code == 401
    with httpx.Client(base_url=address) as known:
        wrong = {"username": "ann", "password": "guessed"}
        assert known.post("/login", data=wrong).status_code == 400
        assert known.get("/config").status_code == 401
        known.post("/login", data=wrong | {"password": "secret"}).raise_for_status()
        assert known.get("/config").status_code == 200


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with _server(SERVED, tmp_path_factory.mktemp("locked")) as (port, _):
        yield port


def test_a_machine_too_busy_to_answer_at_once_serves_all_the_same(tmp_path: Path) -> None:
    with _server(SLOW, tmp_path) as (port, said):
        assert f"Studio is at http://127.0.0.1:{port}" in said
