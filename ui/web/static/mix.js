// Fires `input` once a change of a setting is finished: a slider is released, a text field left or a
// box ticked, by mouse or keyboard. Ctrl or Cmd with Enter presses Draw. If Draw is disabled because
// a field was wrong, it leaves the field instead, so that its new value is read. The buttons that
// draw a comparison scroll to it. Gradio provides `trigger`.
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
