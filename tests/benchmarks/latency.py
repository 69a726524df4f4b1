"""How long the page takes, in a real browser beside a real server and its workers.

    python -m tests.benchmarks.latency --times 10

Opens Mix on a new workspace; then moves a slider again and again and tells where the time until the
new picture goes: until the job is queued, until the worker takes it, until the picture lies on the
disk, until it is seen. Then a training runs, and tabs and Stop are pressed. What the machine did
beside it is said with the load.
"""

import argparse
import os
import shutil
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Page, sync_playwright

from studio.dataset.folders import Folder
from studio.queue.client import get_job, list_jobs, list_workers, stop_job
from studio.queue.job import Job
from studio.requests.training import TrainingRequest
from studio.workspace import Workspace, get_picture, open_workspace
from tests.ui.web.conftest import BROWSERS, PATIENCE, ROOT, Server, open_tab
from ui.shared.queue_requests import queue_training

Rows = list[tuple[str, Sequence[float], float | None]]

# In the page: when the note and the picture first changed after now, in seconds since 1970.
WATCH = """(answer) => {
  const now = () => (performance.timeOrigin + performance.now()) / 1000;
  const shown = () => document.querySelector('#mix-frame figure:not(.forming):not(.none) img')?.src;
  const note = () => document.querySelector('#mix-note .mix-note')?.innerText;
  const marks = window.marks = { begun: null, old: shown(), note: note() };
  const begin = () => { marks.begun ??= now(); };
  document.addEventListener('keydown', begin, { once: true, capture: true });
  document.addEventListener('pointerdown', begin, { once: true, capture: true });
  const look = () => {
    if (marks.begun && !marks.answered && note() !== marks.note && note()?.includes(answer))
      marks.answered = now();
    if (marks.begun && !marks.formed && document.querySelector('#mix-frame .forming'))
      marks.formed = now();
    if (marks.begun && shown() && shown() !== marks.old) {
      marks.seen = now();
      watcher.disconnect();
    }
  };
  const watcher = new MutationObserver(look);
  watcher.observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.latency", description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="of each action")
    times = parser.parse_args().times
    print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}")
    print("\n| | median | worst | goal |\n|---|---|---|---|")
    with TemporaryDirectory() as folder, _page(Path(folder)) as (server, page):
        _print(_opening(page))
        _print(_sliding(page, server.space, times))
        with _training(server.space):
            _print(_pressing(page, times))
    print(f"\nload after {os.getloadavg()[0]:.1f}")


def _print(rows: Rows) -> None:
    for said, seconds, goal in rows:
        wanted = "" if goal is None else f"{1000 * goal:.0f} ms"
        middle, most = statistics.median(seconds), max(seconds)
        print(f"| {said} | {1000 * middle:.0f} ms | {1000 * most:.0f} ms | {wanted} |", flush=True)


@contextmanager
def _page(folder: Path) -> Iterator[tuple[Server, Page]]:
    """A server whose workers wait for jobs, and its page in a browser."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Server(open_workspace(folder / "space"), free.getsockname()[1])
    server.start()
    try:
        while not all(one.doing == "waiting for jobs" for one in list_workers(server.space)):
            time.sleep(0.2)
        with sync_playwright() as playwright:
            browser: Browser = playwright.chromium.launch(
                executable_path=next(filter(None, map(shutil.which, BROWSERS))),
                args=["--no-sandbox"],
            )
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.set_default_timeout(PATIENCE)
            page.goto(server.address)
            page.get_by_role("tab", name="Mix").wait_for()
            page.wait_for_timeout(3000)  # whoever opens it looks first
            yield server, page
            browser.close()
    finally:
        server.end()


def _opening(page: Page) -> Rows:
    """The first picture after the tab is opened."""
    page.evaluate(WATCH, "Waiting")
    open_tab(page, "Mix")
    marks = _marks(page)
    return [("Mix is opened: the first picture is seen", [marks["seen"] - marks["begun"]], 3.0)]


def _sliding(page: Page, space: Workspace, times: int) -> Rows:
    """A slider is moved by a key: the new picture, and what its time went to."""
    whole, queued, taken, drawn, seen, steps = [], [], [], [], [], []
    slider = page.get_by_label("range slider for CFG scale")
    for number in range(times):
        page.evaluate(WATCH, "Waiting")
        slider.press("ArrowRight" if number % 8 < 4 else "ArrowLeft")
        marks = _marks(page)
        job = _ended(space)
        assert job.started and job.results
        there = get_picture(space, job.results[0]).created
        whole.append(marks["seen"] - marks["begun"])
        queued.append(job.created - marks["begun"])
        taken.append(job.started - job.created)
        steps.append(job.seconds)
        drawn.append(there - job.started)
        seen.append(marks["seen"] - there)
    return [
        ("a slider is moved: the new picture is seen", whole, 1.5),
        ("of that: until the job is queued", queued, None),
        ("of that: until the worker takes it", taken, None),
        ("of that: until the picture lies on the disk", drawn, None),
        ("of that: until it is seen", seen, None),
        ("the steps alone", steps, None),
    ]


def _pressing(page: Page, times: int) -> Rows:
    """While a training runs: another tab, Draw and Stop."""
    tabs, drawn, stopped = [], [], []
    page.get_by_label("Draw every change").uncheck()
    page.get_by_label("number input for Steps").fill("100")  # so that there is something to stop
    for _ in range(times):
        for name in ("Library", "Mix"):
            begun = time.perf_counter()
            open_tab(page, name)
            page.get_by_role("tab", name=name, selected=True).wait_for()
            page.get_by_role("tabpanel").locator("visible=true").first.wait_for()
            tabs.append(time.perf_counter() - begun)
        for name, said, answers in (("Draw", "Waiting", drawn), ("Stop", "Stop", stopped)):
            page.evaluate(WATCH, said)
            page.get_by_role("button", name=name, exact=True).click()
            page.wait_for_function("window.marks.answered")
            marks = page.evaluate("window.marks")
            answers.append(marks["answered"] - marks["begun"])
        page.wait_for_function("document.querySelector('#mix-stop').disabled")
    return [
        ("during a training: another tab is there", tabs, 0.3),
        ("during a training: Draw is answered", drawn, 0.3),
        ("during a training: Stop is answered", stopped, 0.3),
    ]


@contextmanager
def _training(space: Workspace) -> Iterator[None]:
    """One that goes on for as long as the block."""
    pictures = ROOT / "assets" / "examples" / "robot"
    job = queue_training(
        space,
        TrainingRequest("lora", "sks robot", (Folder(pictures),), recipe={"steps": 100_000}),
    )
    while get_job(space, job.id).step < 3:
        assert get_job(space, job.id).state in ("queued", "running")
        time.sleep(0.2)
    yield
    stop_job(space, job.id)


def _marks(page: Page) -> dict[str, float]:
    page.wait_for_function("window.marks.seen")
    return page.evaluate("window.marks")


def _ended(space: Workspace) -> Job:
    while (job := list_jobs(space, kinds=("render",), limit=1)[0]).state != "done":
        time.sleep(0.01)
    return job


if __name__ == "__main__":
    main()
