// Fires `input` on this component when there is news for its tab and the tab is selected. Fires
// again after a while without news: a late answer to an earlier event, such as a press of a button,
// may have replaced the newest state.
// Gradio provides `props` and `trigger`; `props.tab` is the tab's id.
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
