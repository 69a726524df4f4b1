"""A button that is clicked several times in a row is pressed once, and shows that it was heard."""

from playwright.sync_api import Browser

from ui.web.frontend import ONCE, script


def test_several_clicks_are_one_until_a_moment_has_passed(chromium: Browser) -> None:
    page = chromium.new_page()
    page.set_content(f'<button class="{ONCE}">Draw</button><button>Stop</button>')
    page.evaluate(f"(() => {{ {script('heard.js')} }})()")
    page.evaluate(
        "window.told = [];"
        "document.body.addEventListener('click', e => told.push(e.target.innerText))"
    )
    clicks = (
        "for (let n = 0; n < 5; n++) document.querySelectorAll('button').forEach(b => b.click())"
    )
    page.evaluate(clicks)
    assert page.evaluate("told.join()") == "Draw," + ",".join(["Stop"] * 5)
    draw = page.get_by_text("Draw")
    assert draw.get_attribute("data-heard") == ""
    page.wait_for_selector(f".{ONCE}:not([data-heard])")
    draw.click()
    assert page.evaluate("told.length") == 7
    page.close()
