// Asks the server for news once a second, and five times a second while a picture is being drawn or
// shortly after the user did something. Fires `studio-news` on the document with every answer.
// Gradio provides `props` and `server`.
const USUAL = 1000, OFTEN = 200, AWAKE = 3000;  // milliseconds
let awakeUntil = 0, timer = null, next = 0, asking = false, knownServer = null;
const selectedTab = () =>
  document.querySelector('[role=tab][aria-selected=true]')?.textContent.trim().toLowerCase() ?? '';
const plan = (wait) => {
  clearTimeout(timer);
  next = Date.now() + wait;
  timer = setTimeout(ask, wait);
};
const ask = async () => {
  if (asking) return;
  asking = true;
  let wait = USUAL;
  try {
    if (!document.hidden) {
      const tab = selectedTab();
      const news = await server.news(tab);
      knownServer ??= news.server;
      if (news.server !== knownServer) { location.reload(); return; }
      if (news.head !== props.value) props.value = news.head;
      const detail = { tab, version: news.version, firstRun: news.first_run };
      document.dispatchEvent(new CustomEvent('studio-news', { detail }));
      if (news.forming || Date.now() < awakeUntil) wait = OFTEN;
    }
  } catch {
    if (props.value !== props.offline) props.value = props.offline;
  }
  asking = false;
  plan(wait);
};
const wake = () => {
  awakeUntil = Date.now() + AWAKE;
  if (!asking && next > Date.now() + OFTEN) plan(OFTEN);
};
for (const event of ['pointerup', 'keyup', 'change', 'drop', 'visibilitychange'])
  document.addEventListener(event, wake, true);
document.addEventListener('studio-listening', wake);
ask();
