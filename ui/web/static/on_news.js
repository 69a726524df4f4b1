// Fires Gradio's `input` on this component when its tab is selected and something has changed.
// And once more when it has been quiet for a while: the answer to an earlier question, as to a
// press of a button, may have come last.
// `props` and `trigger` are Gradio's; `props.tab` is the tab's id.
const QUIET = 3000;  // milliseconds
let known = null, changed = null;
document.addEventListener('studio-news', ({ detail }) => {
  if (detail.tab !== props.tab) return;
  if (detail.version !== known) {
    known = detail.version;
    changed = Date.now();
    trigger('input');
  } else if (changed && Date.now() > changed + QUIET) {
    changed = null;
    trigger('input');
  }
});
document.dispatchEvent(new CustomEvent('studio-listening'));
