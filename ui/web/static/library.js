// On a narrow screen the details of an adapter cover the bottom of the window. Its card is then
// scrolled to the top. Gradio provides `element`, the list.
const details = () => document.querySelector('#library-details');
const showCard = () => {
  if (innerWidth <= 768)
    element.querySelector('[aria-pressed=true]')?.scrollIntoView({behavior: 'smooth', block: 'start'});
};
element.addEventListener('click', (event) => {
  if (!event.target.closest('.card')) return;
  details().classList.remove('closed');
  const shown = new MutationObserver(() => {
    if (!document.querySelector('#about .about')) return;
    shown.disconnect();
    showCard();
  });
  shown.observe(document.querySelector('#about'), {childList: true, subtree: true});
});
document.addEventListener('click', (event) => {
  if (event.target.closest('#library-details [data-close]')) details().classList.add('closed');
});
