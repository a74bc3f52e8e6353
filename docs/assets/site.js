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
