"""The tab Train in a browser: from pictures to a training that nothing ends but its owner."""

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from studio.dataset.captioner import open_captioner
from studio.queue.client import get_job, list_jobs
from studio.workspace import Workspace, get_set, list_adapters, list_checkpoints
from tests.tiny_captioner import tiny_captioner
from tests.ui.web.conftest import Server, fill

EXAMPLES = Path(__file__).resolve().parents[3] / "assets" / "examples" / "robot"


def field(page: Page, label: str) -> Locator:
    """A text field; its accessible name is its label and the words under it."""
    return page.get_by_role("textbox", name=re.compile(f"^{re.escape(label)}"))


def begin(page: Page, trigger: str, base: Path, *, steps: int, every: int) -> None:
    """Press Train on an example's pictures; a sample and a checkpoint every so many steps."""
    page.get_by_role("button", name="Example: sks robot").click()
    expect(page.locator("#captions img")).to_have_count(5)
    typed = page.get_by_role("combobox", name="Base model")
    fill(typed, str(base))
    typed.press("Enter")
    expect(typed).to_have_value(re.compile(f"^{base.name}"))
    fill(field(page, "Trigger"), trigger)
    fill(field(page, "Steps"), str(steps))
    fill(field(page, "Sample prompts"), trigger)
    page.get_by_role("button", name="More options").click()
    page.get_by_role("button", name="Learning").click()
    fill(field(page, "Batch"), "2")
    page.get_by_role("button", name="Samples and checkpoints").click()
    fill(field(page, "Sample every"), str(every))
    fill(field(page, "Save every"), str(every))
    page.get_by_role("button", name="Train", exact=True).click()


def the_job(space: Workspace, trigger: str) -> int:
    return next(job.id for job in list_jobs(space, kinds=("train",)) if job.title == trigger)


def test_pictures_are_dropped_captioned_and_taken_out(
    page: Page, server: Server, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((EXAMPLES / "robot-1.png").read_bytes()[:200])
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text("choose pictures first")).to_be_visible()
    fill(field(page, "Trigger"), "dropped robot")
    files = [*EXAMPLES.glob("robot-[12].png"), EXAMPLES / "robot-1.txt", broken]
    page.locator(".studio-drop input[type=file]").set_input_files(files)
    expect(page.get_by_role("alert")).to_contain_text("broken.png can't be read as a picture")
    table = page.locator("#captions")
    expect(table.locator("img")).to_have_count(2)

    caption = table.get_by_label("Caption of robot-2.png")
    expect(caption).to_have_value("")
    fill(caption, "a <b>dropped</b> robot")
    caption.blur()
    expect(page.get_by_text("1 caption is changed but not saved")).to_be_visible()
    page.get_by_role("button", name="Edit all captions").click()
    fill(field(page, "Find"), "dropped")
    fill(field(page, "Replace with"), "fallen")
    page.get_by_role("button", name="Change all captions").click()
    expect(caption).to_have_value("a <b>fallen</b> robot")
    page.get_by_role("button", name="Add trigger words to all").click()
    expect(caption).to_have_value("dropped robot, a <b>fallen</b> robot")
    words = (EXAMPLES / "robot-1.txt").read_text().strip()
    said = [one.caption for one in get_set(server.space, "dropped robot").pictures]
    assert said == [words, ""]  # nothing was saved yet
    page.get_by_role("button", name="Save captions").click()
    expect(page.get_by_text("not saved")).to_have_count(0)
    said = [one.caption for one in get_set(server.space, "dropped robot").pictures]
    assert said == [f"dropped robot, {words}", "dropped robot, a <b>fallen</b> robot"]

    table.get_by_role("button", name="Remove robot-2.png").click()
    expect(table.locator("img")).to_have_count(1)
    page.get_by_role("button", name="Undo: restore robot-2.png").click()
    expect(table.locator("img")).to_have_count(2)
    expect(caption).to_have_value("dropped robot, a <b>fallen</b> robot")

    page.get_by_role("button", name="Crop preview").click()
    expect(page.get_by_text("128 x 128 · 2 pictures")).to_be_visible()


def test_a_captioner_writes_what_is_then_checked_and_saved(
    page: Page, server: Server, tmp_path: Path
) -> None:
    model = tiny_captioner(tmp_path / "blip")
    fill(field(page, "Trigger"), "told robot")
    files = [*EXAMPLES.glob("robot-[12].png"), EXAMPLES / "robot-1.txt"]
    page.locator(".studio-drop input[type=file]").set_input_files(files)
    caption = page.locator("#captions").get_by_label("Caption of robot-2.png")
    page.get_by_role("button", name="Have captions written").click()
    expect(page.get_by_text("No captioner is on this machine.")).to_be_visible()
    fill(page.get_by_role("combobox", name="Captioner"), str(model))
    page.get_by_role("button", name="Write captions").click()
    expect(page.get_by_text("1 of 1 captions written")).to_be_visible()
    said = open_captioner(model).caption(EXAMPLES / "robot-2.png")
    expect(caption).to_have_value(said)
    expect(page.get_by_text("1 caption is changed but not saved")).to_be_visible()
    page.get_by_role("button", name="Save captions").click()
    expect(page.get_by_text("not saved")).to_have_count(0)
    words = (EXAMPLES / "robot-1.txt").read_text().strip()
    kept = [one.caption for one in get_set(server.space, "told robot").pictures]
    assert kept == [words, said]  # the one that was there is left alone


def test_a_training_is_there_after_a_reload_and_after_a_killed_server(
    page: Page, server: Server, sdxl_folder: Path
) -> None:
    begin(page, "lasting robot", sdxl_folder, steps=5000, every=10)
    expect(page.locator(".studio-cost")).to_be_visible()  # an estimate of time and memory
    panel = page.locator("#studio-runs")
    head = panel.locator(".studio-run")
    expect(head).to_contain_text("lasting robot")
    job = the_job(server.space, "lasting robot")
    sample = panel.get_by_role("img", name="lasting robot, step 10", exact=True)
    expect(sample).to_be_visible()
    panel.get_by_role("button", name="Stop").click()
    expect(head).to_contain_text("Stopped at step")
    stopped = get_job(server.space, job)
    assert list_checkpoints(server.space, stopped.run)[-1].step == stopped.step
    panel.get_by_role("button", name="Resume").click()
    expect(head).to_contain_text("Running")

    server.kill()
    line = page.locator(".studio-head")
    expect(line).to_contain_text("Server not running")
    server.start()
    expect(line).not_to_contain_text("Server not running")  # the page has loaded itself again
    expect(head).to_contain_text("lasting robot")
    expect(head).to_contain_text("Running")
    expect(panel.get_by_role("img", name="Loss")).to_be_visible()
    expect(sample).to_be_visible()
    assert get_job(server.space, job).step >= stopped.step
    panel.get_by_role("button", name="Stop").click()
    expect(head).to_contain_text("Stopped at step")

    panel.get_by_role("button", name="Remove").click()
    expect(panel.get_by_role("radio", name="lasting robot")).to_have_count(0)
    panel.get_by_role("button", name="Undo").click()
    expect(panel.get_by_role("radio", name="lasting robot")).to_be_checked()
    expect(panel.get_by_role("img", name="Loss")).to_be_visible()


def test_checkpoints_are_compared_and_one_is_mixed_with(
    page: Page, server: Server, sdxl_folder: Path
) -> None:
    begin(page, "compared robot", sdxl_folder, steps=6, every=3)
    panel = page.locator("#studio-runs")
    done = "Done. compared robot is in the library"
    expect(panel.locator(".studio-run")).to_contain_text(done)

    panel.get_by_role("button", name="Compare checkpoints").click()
    expect(panel.get_by_role("checkbox", name="6 (the end)")).to_be_checked()
    fill(field(page, "Strengths"), "0.5, 1")
    panel.get_by_role("button", name="Draw the grid").click()
    grid = panel.locator(".studio-grid button.thumbnail-item")
    expect(grid).to_have_count(4)
    shown = ["step 3, 0.5", "step 3, 1", "step 6, 0.5", "step 6, 1"]
    assert [text.strip() for text in grid.all_inner_texts()] == shown
    grid.nth(0).click()
    expect(panel.locator(".studio-large img")).to_have_attribute("alt", "step 3, 0.5")
    panel.get_by_role("button", name="Keep it in the library").click()
    expect(page.get_by_text("compared robot step 3 at 0.5 is in the library")).to_be_visible()

    panel.get_by_role("button", name="Mix with it").first.click()
    expect(page.get_by_role("tab", name="Mix", selected=True)).to_be_visible()
    expect(page.locator(".mix-picked:visible")).to_contain_text(["compared robot"])
    kept = {one.name for one in list_adapters(server.space)}
    assert {"compared robot", "compared robot step 3 at 0.5"} <= kept
