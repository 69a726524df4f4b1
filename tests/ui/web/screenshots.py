"""Pictures of every tab, light and dark, in three widths: of a first visit, and of one in use.

    python -m tests.ui.web.screenshots [FOLDER] [--steps 300] [--adapters FILE...]

Starts a server on a fresh workspace, trains a subject and a style (or takes adapters that are
there), draws pictures and a batch, and writes a PNG of each tab into build/screenshots. Those of a
first visit have "first" in front.
"""

import argparse
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from studio.dataset.folders import Folder
from studio.queue.client import get_job
from studio.queue.job import Job
from studio.requests.shot import Shot
from studio.requests.training import TrainingRequest
from studio.workspace import Workspace, adapter_path, import_adapter, open_workspace
from tests.ui.web.conftest import BROWSERS, PATIENCE, ROOT, SHOTS, Server, open_tab
from ui.shared.queue_requests import queue_pictures, queue_training

SUBJECT, STYLE = ("robot", "sks robot"), ("glass", "glass style")
SIZES = {"desk": (1440, 900), "tablet": (720, 960), "phone": (390, 844)}
SCENES = ("in a meadow", "in the city at night", "on the moon", "on a beach")


def main() -> None:
    """Make them all."""
    asked = argparse.ArgumentParser(description="Pictures of every tab.")
    asked.add_argument("folder", nargs="?", type=Path, default=SHOTS)
    asked.add_argument("--steps", type=int, default=300, help="of each training")
    asked.add_argument("--adapters", nargs=2, type=Path, help="a subject and a style, trained")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(open_workspace(Path(scratch) / "studio-workspace"), _free_port())
        server.start()
        try:
            _photograph(server, given.folder, "first-", dict.fromkeys(TABS))
            names = _adapters(server.space, given.steps, given.adapters)
            _draw(server.space, names)
            _photograph(server, given.folder, "", TABS)
        finally:
            server.end()


def _adapters(space: Workspace, steps: int, files: Sequence[Path] | None) -> list[str]:
    """A subject and a style in the library, and a training to look at."""
    few = min(steps, 60)
    jobs = [
        queue_training(
            space,
            TrainingRequest(
                "lora",
                trigger,
                (Folder(ROOT / "assets" / "examples" / folder),),
                recipe={"steps": few if files else steps, "sample_every": max(10, few // 4)},
                name=f"{folder} new" if files else folder,
            ),
        )
        for folder, trigger in ((SUBJECT,) if files else (SUBJECT, STYLE))
    ]
    trained = [_done(space, job).results[0] for job in jobs]
    return [import_adapter(space, file).name for file in files] if files else trained


def _draw(space: Workspace, names: Sequence[str]) -> None:
    """Some pictures, and a batch."""
    subject, style = (adapter_path(space, name) for name in names)
    shots = [
        Shot(
            f"a red sks robot {scene}, glass style",
            adapters=((subject, 1.0), (style, 0.7)),
            seed=at,
        )
        for at, scene in enumerate(SCENES)
    ]
    _done(space, queue_pictures(space, shots))
    alone = [
        Shot(shot.prompt, seed=seed, adapters=((subject, 1.0),))
        for shot in shots
        for seed in (1, 2)
    ]
    _done(space, queue_pictures(space, [*shots, *alone], kind="batch"))


def _photograph(
    server: Server, folder: Path, before: str, tabs: Mapping[str, Callable[[Page], None] | None]
) -> None:
    """before: in front of the files' names. tabs: what is done in each before."""
    folder.mkdir(parents=True, exist_ok=True)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, f"needs one of {', '.join(BROWSERS)}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for device in SIZES:
            for scheme in ("light", "dark"):
                page = _page(browser, device, scheme)
                page.goto(server.address)
                for tab, show in tabs.items():
                    open_tab(page, tab)
                    page.wait_for_timeout(2000)
                    if show:
                        show(page)
                    page.wait_for_timeout(2000)
                    path = folder / f"{before}{tab.lower()}-{device}-{scheme}.png"
                    page.screenshot(path=path, full_page=True)
                    print(path, flush=True)
                page.close()
        browser.close()


def _page(browser: Browser, device: str, scheme: str) -> Page:
    width, height = SIZES[device]
    dark = "dark" if scheme == "dark" else "light"
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=dark)
    page.set_default_timeout(PATIENCE)
    return page


def _write_prompts(page: Page) -> None:
    prompts = "a sks robot on the moon\na red star"
    page.get_by_role("textbox", name="Prompts").press_sequentially(prompts)
    page.get_by_role("button", name="Make 4 pictures").wait_for()


def _choose_adapter(page: Page) -> None:
    page.locator("#library .card").first.click()


# What is done in a tab before it is photographed.
TABS: dict[str, Callable[[Page], None] | None] = {
    "Train": None,
    "Mix": None,
    "Batch": _write_prompts,
    "Library": _choose_adapter,
    "Queue": None,
}


def _done(space: Workspace, job: Job) -> Job:
    while (found := get_job(space, job.id)).state in ("queued", "running"):
        time.sleep(0.5)
    assert found.state == "done", found.error
    return found


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    main()
