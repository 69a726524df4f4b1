// Keeps the card of the first run up to date. Gradio provides `props`.
document.addEventListener('studio-news', ({ detail }) => {
  if (detail.firstRun !== props.value) props.value = detail.firstRun;
});
