// On a narrow screen the details of an adapter are a sheet at the bottom of the window, with its
// card in sight above. `element` is the list.
const details = () => document.querySelector('#library-details');
element.addEventListener('click', (event) => {
  const card = event.target.closest('.card');
  if (!card) return;
  details().classList.remove('closed');
  if (innerWidth <= 768) card.scrollIntoView({behavior: 'smooth', block: 'start'});
});
document.addEventListener('click', (event) => {
  if (event.target.closest('#library-details [data-close]')) details().classList.add('closed');
});
