// What the theme leaves out for those who use a keyboard or a screen reader.

document.querySelector("[data-md-component=search]")?.setAttribute("aria-label", "Search");

// The theme makes a landmark of each copy button: dozens of the same name on a page.
function demote() {
  for (const nav of document.querySelectorAll(".md-code__nav:not([role])"))
    nav.setAttribute("role", "none");
}
new MutationObserver(demote).observe(document.body, { childList: true, subtree: true });
demote();

// Code that scrolls sideways can be reached, and so scrolled, with the keyboard.
function reach() {
  for (const block of document.querySelectorAll("pre > code, .md-typeset__scrollwrap"))
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
    else block.removeAttribute("tabindex");
}
new ResizeObserver(reach).observe(document.body);

// A program in a fold or an unopened tab is a file of its own, loaded when that is opened.
async function load(link) {
  const response = await fetch(link.href);
  if (response.ok && link.isConnected) link.outerHTML = await response.text();
}
function loadPrograms(element) {
  element?.querySelectorAll("a.program").forEach(load);
}
// The theme opens all folds to print them; only those that the reader has opened are printed.
let printing = matchMedia("print").matches;
addEventListener("beforeprint", () => (printing = true));
addEventListener("afterprint", () => (printing = false));
const note = (fold) => fold.toggleAttribute("data-opened", fold.open);
document.querySelectorAll("details").forEach(note);
document.addEventListener("toggle", ({ target }) => {
  if (printing || !(target instanceof HTMLDetailsElement)) return;
  note(target);
  if (target.open) loadPrograms(target);
}, true);
document.addEventListener("change", ({ target }) => loadPrograms(target.closest(".tabbed-set")));
document.querySelectorAll(".tabbed-set > :checked:not(:first-child)").forEach((input) => loadPrograms(input.parentNode));

// Few pages have a panel, or a calculator.
if (document.querySelector(".panel")) import("./panel.js");
if (document.querySelector(".calculator")) import("./calculators.js");

if (document.querySelector(".md-search__button")) import("./search.js");

// Two pages have the race.
if (document.querySelector(".race")) import("./race.js");

// Offline after the first visit: ../sw.js keeps what was loaded, and then the rest.
const root = new URL("..", import.meta.url);
if ("serviceWorker" in navigator && !navigator.connection?.saveData)
  addEventListener("load", async () => {
    await navigator.serviceWorker.register(new URL("sw.js", root));
    const { active } = await navigator.serviceWorker.ready;
    active.postMessage("keep all");
  });
