// Tells of a caption that was edited once its field is left. `element` and `trigger` are Gradio's.
element.addEventListener("change", ({target}) => {
  if (!target.dataset.picture) return;
  target.closest(".caption").classList.add("changed");
  trigger("input", {name: target.dataset.picture, text: target.value});
});
