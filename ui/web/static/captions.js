// Fires `input` with a caption that was edited when the user leaves its field. Gradio provides
// `element` and `trigger`.
element.addEventListener("change", ({target}) => {
  if (!target.dataset.picture) return;
  target.closest(".caption").classList.add("changed");
  trigger("input", {name: target.dataset.picture, text: target.value});
});
// A field keeps what somebody typed, even if new HTML gives it another text. So the value of every
// field is set whenever the table has been rendered anew.
let filledVersion = "";
const fill = () => {
  const version = element.querySelector(".captions")?.dataset.version;
  if (!version || version === filledVersion) return;
  filledVersion = version;
  for (const field of element.querySelectorAll("textarea")) field.value = field.dataset.text;
};
new MutationObserver(fill).observe(element, {subtree: true, childList: true, attributes: true});
fill();
