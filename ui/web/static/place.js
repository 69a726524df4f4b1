// Keeps the selected tab in the URL: a reload selects it again, and Back goes to the previous tab.
const tabs = () => [...document.querySelectorAll('[role=tab]')];
const tabName = (tab) => tab?.textContent.trim().toLowerCase() ?? '';
const selectedName = () => tabName(tabs().find((tab) => tab.ariaSelected === 'true'));
const goTo = (name) => {
  if (name !== selectedName()) tabs().find((tab) => tabName(tab) === name)?.click();
};
const follow = () => {
  const now = selectedName();
  if (now && location.hash !== `#${now}`) history.pushState(null, '', `#${now}`);
};
const arrive = (_, arriving) => {
  if (!selectedName()) return;  // the tabs are not there yet
  arriving.disconnect();
  if (location.hash) goTo(location.hash.slice(1));
  else history.replaceState(null, '', `#${selectedName()}`);
  const selections = { subtree: true, attributeFilter: ['aria-selected'] };
  new MutationObserver(follow).observe(document.body, selections);
};
const arriving = new MutationObserver(arrive);
arriving.observe(document.body, { subtree: true, childList: true });
arrive(null, arriving);
addEventListener('popstate', () => goTo(location.hash.slice(1)));
