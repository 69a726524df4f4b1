// Shows only the cards with all the words that are typed above them. Gradio provides `element`.
const hide = () => {
  const words = (element.querySelector(".find-card")?.value ?? "").toLowerCase().split(/\s+/);
  for (const card of element.querySelectorAll("[data-words]")) {
    const hidden = !words.every((word) => card.dataset.words.includes(word));
    if (card.hidden !== hidden) card.hidden = hidden;
  }
};
element.addEventListener("input", hide);
new MutationObserver(hide).observe(element, {subtree: true, childList: true, attributes: true});
