// Tells of a caption that was edited once its field is left. `element` and `trigger` are Gradio's.
element.addEventListener("change", ({target}) => {
  if (!target.dataset.picture) return;
  target.closest(".caption").classList.add("changed");
  trigger("input", {name: target.dataset.picture, text: target.value});
});
// A field that somebody typed into keeps that, whatever text is written into the page later: so the
// text of every field is set whenever the table was written anew.
let written = "";
const fill = () => {
  const version = element.querySelector(".captions")?.dataset.version;
  if (!version || version === written) return;
  written = version;
  for (const field of element.querySelectorAll("textarea")) field.value = field.dataset.text;
};
new MutationObserver(fill).observe(element, {subtree: true, childList: true, attributes: true});
fill();
