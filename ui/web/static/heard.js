// A button of the class `studio-once` shows that it was clicked, and ignores clicks for a moment.
const DEAF = 800;  // milliseconds
document.addEventListener('click', (event) => {
  const button = event.target.closest?.('button.studio-once');
  if (!button) return;
  if ('heard' in button.dataset) {
    event.stopImmediatePropagation();
    event.preventDefault();
    return;
  }
  button.dataset.heard = '';
  setTimeout(() => delete button.dataset.heard, DEAF);
}, true);
