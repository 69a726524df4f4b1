"""What is clicked in a list is what was pressed, whatever becomes of the list meanwhile."""

import pytest
from playwright.sync_api import Browser, Page

from ui.web.frontend import script

# A list as Gradio writes it anew: into the elements that are there, one after the other.
LIST = """
window.told = [];
const element = document.body.appendChild(document.createElement("div"));
const trigger = (type, data) => told.push(data.name);
window.write = (...names) => {
    while (element.children.length > names.length) element.lastChild.remove();
    while (element.children.length < names.length)
        element.appendChild(document.createElement("button"));
    names.forEach((name, at) => {
        const one = element.children[at];
        Object.assign(one, {textContent: name, disabled: name === "off"});
        one.dataset.name = name;
        one.setAttribute("aria-pressed", "false");
        one.style = "display: block; width: 200px; height: 40px";
    });
};
"""


@pytest.fixture
def drawn(chromium: Browser):
    """A list of three, in a page of its own."""
    page = chromium.new_page(has_touch=True)
    page.set_content("<body></body>")
    page.evaluate(f"(() => {{ {LIST} {script('clicked_item.js')} }})()")
    page.evaluate("write('ink', 'robot', 'vase')")
    yield page
    page.close()


def told(page: Page) -> list[str]:
    return page.evaluate("told")


def press(page: Page, name: str) -> None:
    """Hold the mouse's button down over a thing of the list."""
    box = page.get_by_text(name).bounding_box()
    assert box
    page.mouse.move(box["x"] + 50, box["y"] + 20)
    page.mouse.down()


@pytest.mark.parametrize("anew", ["'lamp', 'ink', 'robot', 'vase'", "'robot'", "'ink', 'vase'"])
def test_what_was_pressed_is_told_though_the_list_moves(drawn: Page, anew: str) -> None:
    press(drawn, "robot")
    drawn.evaluate(f"write({anew})")
    drawn.mouse.up()
    assert told(drawn) == ["robot"]


def test_a_click_is_told_once(drawn: Page) -> None:
    drawn.get_by_text("robot").click()
    drawn.get_by_text("ink").tap()
    drawn.get_by_text("vase").focus()
    drawn.keyboard.press("Enter")
    drawn.keyboard.press("Space")
    drawn.get_by_text("ink").dispatch_event("click")
    assert told(drawn) == ["robot", "ink", "vase", "vase", "ink"]
    assert drawn.get_by_role("button", pressed=True).all_inner_texts() == ["ink"]


def test_a_press_that_is_thought_better_of_tells_nothing(drawn: Page) -> None:
    press(drawn, "robot")
    drawn.mouse.move(500, 500)
    drawn.mouse.up()
    press(drawn, "vase")
    drawn.get_by_text("ink").hover()
    drawn.mouse.up()
    drawn.get_by_text("robot").click(button="right")
    drawn.evaluate("write('off')")
    press(drawn, "off")
    drawn.mouse.up()
    assert told(drawn) == []


def test_an_element_stands_for_one_item_only(drawn: Page) -> None:
    drawn.evaluate("held = [...document.querySelectorAll('button')]")
    drawn.evaluate("write('ink', 'lamp', 'robot', 'vase')")
    assert drawn.evaluate("held.map(one => one.isConnected)") == [True, False, False]
    assert drawn.get_by_role("button").all_inner_texts() == ["ink", "lamp", "robot", "vase"]


def test_the_focus_follows_its_item(drawn: Page) -> None:
    drawn.get_by_text("robot").focus()
    drawn.evaluate("write('lamp', 'ink', 'robot', 'vase')")
    drawn.keyboard.press("Enter")
    assert told(drawn) == ["robot"]
