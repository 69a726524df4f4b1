"""A reload keeps the forms, the tab and the mix, and Back goes to the tab before."""

from playwright.sync_api import Page, expect

from studio.queue.client import list_jobs
from studio.requests.shot import Shot
from tests.ui.web.conftest import Server, fill, open_tab
from ui.shared.queue_requests import queue_pictures


def test_a_reload_keeps_every_form_and_the_address_the_tab(page: Page, server: Server) -> None:
    here = page.locator("[role=tabpanel]:visible")
    prompt, seed = page.locator("#mix-prompt textarea"), here.get_by_label("Seed").first
    problem, draw = page.locator("#mix-problem"), page.locator("#mix-draw")
    verdict, manifest = page.locator("#verdict"), here.get_by_label("Manifest").last
    fill(here.get_by_label("Trigger words").first, "sks lamp")
    fill(here.get_by_label("Steps").first, "77")
    open_tab(page, "Batch")
    fill(here.get_by_label("Prompts").first, "a lamp")
    expect(verdict).to_contain_text("2 pictures")
    fill(manifest, manifest.input_value() + "\n# mine")
    open_tab(page, "Mix")
    here.get_by_label("Draw every change").uncheck()
    fill(prompt, "a blue lamp")
    fill(seed, "abc")
    prompt.click()
    expect(problem).to_contain_text("Seed: 'abc' is not a whole number")
    expect(draw).to_be_disabled()
    assert page.url.endswith("#mix")
    other = queue_pictures(server.space, [Shot("of a phone", base="sketch", steps=1)])

    page.reload()
    expect(problem).to_contain_text("Seed: 'abc' is not a whole number")
    expect(draw).to_be_disabled()
    expect(prompt).to_have_value("a blue lamp")
    expect(here.get_by_label("Draw every change")).not_to_be_checked()
    fill(seed, "7")
    seed.press("Control+Enter")
    expect(problem).to_be_hidden()
    expect(draw).to_be_enabled()
    assert list_jobs(server.space)[0].id == other.id  # nothing was drawn by that

    page.go_back()
    expect(here.get_by_label("Prompts").first).to_have_value("a lamp")
    expect(verdict).to_contain_text("2 pictures")
    assert manifest.input_value().endswith("# mine")
    page.go_back()
    expect(here.get_by_label("Trigger words").first).to_have_value("sks lamp")
    expect(here.get_by_label("Steps").first).to_have_value("77")
