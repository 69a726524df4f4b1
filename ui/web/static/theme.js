// Applies the chosen theme: light, dark or the system's. The browser stores the choice. Gradio
// itself follows the system, so the choice is applied again whenever the system's theme changes.
// Gradio provides `element`.
const system = matchMedia('(prefers-color-scheme: dark)');
const show = () => {
  const choice = localStorage.getItem('studio-theme') ?? 'system';
  document.body.classList.toggle('dark', choice === 'system' ? system.matches : choice === 'dark');
  for (const button of element.querySelectorAll('[data-theme]'))
    button.setAttribute('aria-pressed', button.dataset.theme === choice);
};
element.addEventListener('click', (event) => {
  const choice = event.target.closest('[data-theme]')?.dataset.theme;
  if (!choice) return;
  localStorage.setItem('studio-theme', choice);
  show();
});
system.addEventListener('change', show);
show();
