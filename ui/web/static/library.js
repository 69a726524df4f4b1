// On a phone the details stand below the list: scroll to them once an adapter is chosen.
element.addEventListener("click", () => {
  const details = document.querySelector("#about");
  if (innerWidth < 768) setTimeout(() => details.scrollIntoView({behavior: "smooth"}), 400);
});
