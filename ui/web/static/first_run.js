// Shows how far the first run has got. `props` is Gradio's.
document.addEventListener('studio-news', ({ detail }) => {
  if (detail.firstRun !== props.value) props.value = detail.firstRun;
});
