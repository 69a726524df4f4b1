// Shows the pictures of an album large, each with its recipe. Buttons, arrow keys and swipes go to
// the next picture or the previous one. Two pictures can be compared under a slider.
//
// An album is an element with `data-album`. Its pictures are links: `data-look` is the caption, and
// `data-facts` the recipe, pairs of label and text as JSON. `data-id` is the id of a picture in the
// history, with which "Open in Mix" fires `click`. Gradio provides `trigger`.
document.querySelector("#lightbox")?.remove();
const box = document.createElement("dialog");
box.id = "lightbox";
box.setAttribute("aria-label", "Large pictures");
box.innerHTML = `
  <div class="stage">
    <div class="pair"><img class="b" alt=""><img class="a" alt=""><i></i></div>
    <input type="range" min="0" max="100" value="50" aria-label="Where the two pictures meet">
    <button type="button" class="step back" aria-label="Previous picture">‹</button>
    <button type="button" class="step on" aria-label="Next picture">›</button>
  </div>
  <div class="side">
    <div class="head"><b></b><small></small></div>
    <table><thead><tr><td></td><th>A</th><th>B</th></tr></thead><tbody></tbody></table>
    <div class="acts">
      <button type="button" class="compare" title="Keep this picture as A and choose a B">Compare two</button>
      <button type="button" class="mix">Open in Mix</button>
      <a class="save" download>Save</a>
    </div>
  </div>
  <button type="button" class="close" aria-label="Close">×</button>`;
// Gradio's styles apply only inside of this element.
(document.querySelector(".gradio-container .contain") ?? document.body).append(box);
const part = (selector) => box.querySelector(selector);
const slider = part("input");
let album = "", at = 0, pinned = null;
const links = () => [...document.querySelectorAll(`[data-album="${album}"] [data-look]`)];
const pictureOf = (link) => ({
  url: link.href, words: link.dataset.look, id: link.dataset.id,
  facts: JSON.parse(link.dataset.facts || "[]"),
});
const fill = (a, b) => {
  const names = [...new Set([...b.facts, ...(a?.facts ?? [])].map(([name]) => name))];
  const value = (picture, name) => picture.facts.find(([label]) => label === name)?.[1] ?? "";
  part("tbody").replaceChildren(...names.map((name) => {
    const row = document.createElement("tr");
    const texts = a ? [name, value(a, name), value(b, name)] : [name, value(b, name)];
    row.append(...texts.map((text, column) => {
      const cell = document.createElement(column ? "td" : "th");
      cell.textContent = text;
      return cell;
    }));
    row.classList.toggle("differs", Boolean(a) && texts[1] !== texts[2]);
    return row;
  }));
};
const cut = () => box.style.setProperty("--cut", `${slider.value}%`);
const show = () => {
  const all = links();
  if (!all.length) { box.close(); return; }
  at = (at + all.length) % all.length;
  const now = pictureOf(all[at]), a = pinned && pinned.url !== now.url ? pinned : null;
  box.classList.toggle("two", Boolean(a));
  box.classList.toggle("pinned", Boolean(pinned));
  part("img.b").src = now.url;
  part("img.b").alt = now.words;
  if (a) part("img.a").src = a.url; else part("img.a").removeAttribute("src");
  part("img.a").alt = a ? a.words : "";
  part(".head b").textContent = now.words;
  part(".head small").textContent =
    pinned && !a ? "This is A: choose a B with ‹ and ›" : `${at + 1} of ${all.length}`;
  part(".compare").textContent = pinned ? "End comparing" : "Compare two";
  part(".mix").hidden = !now.id;
  part(".save").href = now.url;
  fill(a, now);
  cut();
};
const move = (by) => { at += by; show(); };
const close = () => { pinned = null; box.close(); };
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("[data-look]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  album = link.closest("[data-album]").dataset.album;
  at = links().indexOf(link);
  pinned = null;
  show();
  box.showModal();
});
box.addEventListener("click", (event) => {
  const {classList} = event.target;
  if (classList.contains("back")) move(-1);
  else if (classList.contains("on")) move(1);
  else if (classList.contains("close") || event.target === box) close();
  else if (classList.contains("compare")) {
    pinned = pinned ? null : pictureOf(links()[at]);
    slider.value = 50;
    show();
  } else if (classList.contains("mix")) {
    const {id} = pictureOf(links()[at]);
    close();
    trigger("click", {name: id});
  }
});
box.addEventListener("keydown", (event) => {
  if (event.target === slider) return;
  const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (!by) return;
  event.preventDefault();
  move(by);
});
box.addEventListener("cancel", () => { pinned = null; });
slider.addEventListener("input", cut);
const SWIPE = 50;  // pixels
let startX = null;
part(".stage").addEventListener("pointerdown", ({target, clientX}) => {
  startX = target === slider ? null : clientX;
});
part(".stage").addEventListener("pointerup", ({clientX}) => {
  if (startX !== null && Math.abs(clientX - startX) > SWIPE) move(clientX < startX ? 1 : -1);
  startX = null;
});
