"""How a list of a page says which of its things was clicked.

A list may be written anew while a button is held down, by a filter or by what a worker has made.
Gradio writes a list into the elements that are there, so that what is released may be another
thing than what was pressed, or nothing. What counts here is what was pressed.
"""

__all__ = ["PICK"]

# A click on anything that names a thing tells which; `element` and `trigger` are gradio's.
PICK = """
const NEAR = 10;  // pixels that a hand moves while it clicks
const thing = (event) => event.target.closest?.("[data-name]:not(:disabled)")?.dataset.name;
const pick = (name) => {
    if (name === undefined) return;
    for (const one of element.querySelectorAll("[aria-pressed]"))
        one.setAttribute("aria-pressed", one.dataset.name === name);
    trigger("click", {name});
};
let pressed = null;
element.addEventListener("pointerdown", (event) => {
    const {button, clientX: x, clientY: y} = event;
    pressed = button === 0 ? {name: thing(event), x, y} : null;
});
document.addEventListener("pointercancel", () => { pressed = null; });  // a finger that scrolls
document.addEventListener("pointerup", (event) => {
    if (!pressed || pressed.up) return;
    const stayed = Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < NEAR;
    pressed.up = true;
    if (stayed || thing(event) === pressed.name) pick(pressed.name);
});
element.addEventListener("click", (event) => {
    if (!pressed || event.detail === 0) pick(thing(event));  // by keyboard, or by a screen reader
    pressed = null;
});
"""
