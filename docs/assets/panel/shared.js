// What the parts of a panel share, with the panels of *Run here* and the race.

export const root = new URL("../..", import.meta.url); // of the site

/** The part of the address that says what a panel shows, or the race. */
export const address = {
  get: (name) => new URLSearchParams(location.search).get(name),

  set(name, value) {
    const url = new URL(location);
    if (value === undefined) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
    history.replaceState(history.state, "", url);
  },
};

export function element(parent, name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
}

export function button(parent, text, action, attributes = {}) {
  const made = element(parent, "button", { type: "button", ...attributes }, text);
  made.addEventListener("click", action);
  return made;
}

/** Returns the text of a file of the site. */
export async function load(path) {
  const response = await fetch(new URL(path, root));
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.text();
}

/** Returns whether the site is served by `make serve`: both kinds of server have this file, with
    different contents. Offline there is none. */
export const isLive = () =>
  load("assets/live.json")
    .then((text) => JSON.parse(text).live)
    .catch(() => false);

/** Returns a number as text: 1,234. */
export const numbered = (value) => value.toLocaleString("en");

/** Returns seconds as text, to a tenth: 4.5 s. */
export const inSeconds = (value) => `${value.toFixed(1)} s`;
