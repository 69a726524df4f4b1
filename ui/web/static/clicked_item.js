// Tells which item of a list was clicked: the nearest element with a `data-name`.
//
// A list may be written anew while a button is held down, by a filter or by a worker's news. Gradio
// then writes into the elements that are there, so that what is released may be another item than
// what was pressed, or nothing. What counts here is what was pressed.
// `element` and `trigger` are Gradio's.
const NEAR = 10;  // pixels that a hand moves while it clicks
const itemOf = (event) => event.target.closest?.("[data-name]:not(:disabled)")?.dataset.name;
const select = (name) => {
  if (name === undefined) return;
  for (const item of element.querySelectorAll("[aria-pressed]"))
    item.setAttribute("aria-pressed", item.dataset.name === name);
  trigger("click", {name});
};
let pressed = null;
element.addEventListener("pointerdown", (event) => {
  const {button, clientX: x, clientY: y} = event;
  pressed = button === 0 ? {name: itemOf(event), x, y} : null;
});
document.addEventListener("pointercancel", () => { pressed = null; });  // a finger that scrolls
document.addEventListener("pointerup", (event) => {
  if (!pressed || pressed.up) return;
  const stayed = Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < NEAR;
  pressed.up = true;
  if (stayed || itemOf(event) === pressed.name) select(pressed.name);
});
element.addEventListener("click", (event) => {
  if (!pressed || event.detail === 0) select(itemOf(event));  // keyboard or screen reader
  pressed = null;
});
