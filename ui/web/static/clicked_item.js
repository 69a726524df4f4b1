// Fires `click` with the name of the list's item that was clicked: the nearest `data-name`.
//
// A list may be rendered anew while a mouse button is down, after a filter or a worker's news.
// Gradio then reuses the existing elements, so the button may be released over another item than it
// was pressed on, or over none. What counts here is the item that was pressed. An element that gets
// another item's name is replaced by a new element; otherwise whatever refers to the element, such
// as the keyboard's focus, would go over to the other item.
// Gradio provides `element` and `trigger`.
const NEAR = 10;  // pixels that the pointer may move during a click
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
