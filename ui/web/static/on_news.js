// Fires Gradio's `input` on this component when its tab is selected and something has changed.
// `props` and `trigger` are Gradio's; `props.tab` is the tab's id.
let known = null;
document.addEventListener('studio-news', ({ detail }) => {
  if (detail.tab !== props.tab || detail.version === known) return;
  known = detail.version;
  trigger('input');
});
document.dispatchEvent(new CustomEvent('studio-listening'));
