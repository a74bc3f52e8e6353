// Zensical's search does not read the words in an address, which the page for missing addresses
// sends; Material's does. site.js loads this where the search is Zensical's.

const words = new URLSearchParams(location.search).get("q");
const button = document.querySelector(".md-search__button");

function findField() {
  const roots = [...document.body.children].map(({ shadowRoot }) => shadowRoot);
  return roots.map((root) => root?.querySelector("[role=combobox]")).find(Boolean);
}

// The search is built when its script has run; until then the button does nothing.
const timer = words && setInterval(() => {
  const field = findField();
  if (!field?.checkVisibility({ visibilityProperty: true })) return button.click();
  clearInterval(timer);
  field.value = words;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}, 50);
