// Tells when a setting has been changed for good: a slider let go, a text field left, a box ticked,
// by mouse or by keyboard. Ctrl or Cmd with Enter presses Draw; where that waits for a field to be
// mended, it leaves the field, so that it is read. A comparison shows what it draws.
let due;
document.addEventListener("change", (event) => {
  if (!event.target.closest("#mix-settings")) return;
  clearTimeout(due);
  due = setTimeout(() => trigger("input"), 20);
});
document.addEventListener("keydown", (event) => {
  const draw = document.querySelector("#mix-draw");
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !draw?.offsetParent) return;
  event.preventDefault();
  if (draw.disabled) document.activeElement.blur();
  else draw.click();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("button.mix-compares")) return;
  document.querySelector("#mix-frame").scrollIntoView({ block: "nearest", behavior: "smooth" });
});
