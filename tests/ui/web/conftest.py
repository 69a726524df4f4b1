"""The page in a real browser: one server with its workers for all these tests."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from studio.workspace import Workspace, open_workspace

ROOT = Path(__file__).resolve().parents[3]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SHOTS = Path(os.environ.get("STUDIO_SCREENSHOTS", ROOT / "build" / "screenshots"))
# Milliseconds for a thing to appear: it is there in a second or two on a quiet machine, but on one
# with four times as many processes as cores a worker, which lets all others go first, takes a
# minute to start and three to train six steps and draw their samples.
PATIENCE = 360_000
expect.set_options(timeout=PATIENCE)
# The program, where an estimate of a training is made up: each takes a process of some seconds, and
# forms are full of what it depends on. tests/ui/web/test_estimating.py has the true ones.
QUICK = """
from ui.cli import main
from ui.web.train import request

request.estimate_sentence = lambda *asked, **more: "1 to 2 s and 1.0 GB of memory"
main()
"""
T = TypeVar("T")


def in_a_loop(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it in a loop of its own; Playwright's runs in the main thread once it has started."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


@dataclass
class Server:
    """`studio ui` as a process, and its workspace."""

    space: Workspace
    port: int
    program: str = "from ui.cli import main; main()"
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        words = ["ui", "--port", str(self.port), "--workspace", str(self.space.root)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.program, *words],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < until:
            assert self.process.poll() is None, "studio ui ended by itself"
            try:
                urllib.request.urlopen(self.address, timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("studio ui does not answer")

    def kill(self) -> None:
        """As kill -9 does; its workers outlive it."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """As Ctrl-C does."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)


def open_tab(page: Page, name: str) -> None:
    """Go to a tab by what it is called."""
    page.get_by_role("tab", name=name).click()


def fill(field: Locator, text: str) -> None:
    """Put a text into a field as a person does, who points at it first.

    A field that has just come into sight is given its value a moment later, in place of what was
    put there at once; a click waits until nothing moves any more.
    """
    field.click()
    field.fill(text)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server; its library, history and queue are those of all tests here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = Server(open_workspace(tmp_path_factory.mktemp("workspace")), port, QUICK)
    one.start()
    yield one
    one.end()


@pytest.fixture(scope="module")  # no longer, as other modules start event loops of their own
def chromium() -> Iterator[Browser]:
    """A browser of this machine; nothing is downloaded."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)} (apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, newly opened; if the test fails, what it looked like is kept."""
    with photographed(open_page(chromium, server), request) as opened:
        yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(chromium: Browser, server: Server) -> Iterator[list[Page]]:
    """The page that the tests of a module share, in a list: `shared_page` gives it."""
    opened: list[Page] = []
    yield opened
    for one in opened:
        one.close()


@pytest.fixture
def shared_page(
    pages: list[Page], chromium: Browser, server: Server, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """The page as the test before left it, since opening one takes seconds; new after a failure."""
    if not pages:
        pages.append(open_page(chromium, server))
    with photographed(pages[0], request) as opened:
        failed = request.session.testsfailed
        yield opened
    if request.session.testsfailed > failed:
        pages.pop().close()


def open_page(chromium: Browser, server: Server) -> Page:
    opened = chromium.new_page(viewport={"width": 1440, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    opened.goto(server.address)
    return opened


@contextmanager
def photographed(page: Page, request: pytest.FixtureRequest) -> Iterator[Page]:
    """If the test fails, what the page looked like is kept in build/screenshots."""
    failed = request.session.testsfailed
    yield page
    if request.session.testsfailed > failed:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{request.node.name}.png", full_page=True)
