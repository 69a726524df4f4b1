// Tells which item of a list was clicked: the nearest element with a `data-name`.
//
// A list may be written anew while a button is held down, by a filter or by a worker's news. Gradio
// then writes into the elements that are there, so that what is released may be another item than
// what was pressed, or nothing. What counts here is what was pressed. And an element that another
// item was written into gives way to a new one, so that whoever held on to it, the keyboard's focus
// too, does not hold on to another item.
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
const refocus = (name) => {
  const items = [...element.querySelectorAll("[data-name]")];
  items.find((item) => item.dataset.name === name)?.focus({preventScroll: true});
};
const renew = (changes) => {
  const before = new Map(changes.reverse().map(({target, oldValue}) => [target, oldValue]));
  const focused = before.get(document.activeElement);
  for (const [item, name] of before)
    if ((item.dataset.name ?? null) !== name) item.replaceWith(item.cloneNode(true));
  if (focused) refocus(focused);
};
new MutationObserver(renew).observe(element, {
  subtree: true, attributeFilter: ["data-name"], attributeOldValue: true,
});
