// The panels of the pages: one job as it passes between client and server, from one of three
// sources. site.js loads this where there is a panel.
//
//   recording  the trace that the tests recorded; also what is drawn before anything runs
//   page       the printed server, run in this page, with the printed client.html
//   live       the printed server, run by `make serve`, with the printed client.html
//
// A panel is <div class="panel" data-trace="…" data-client="…" data-server="…" data-live="…">: the
// recorded trace, the client, its server, and the prefix under which that is mounted by `make
// serve`. `data-settings` are parameters of the client's address, `data-environment` is that of the
// server in the page, `data-sent` is what the client's requests are called. What stands inside is
// there for readers without JavaScript, and is replaced. The source and its settings are kept in the
// address of the page.

import { address, button, element, isLive, numbered, root } from "./panel/shared.js";

const NEAR = "400px"; // a panel is made when it comes this near to what is shown
const LABELS = { recording: "Recording", page: "In this page", live: "Live server" };
const WORDS = {
  recording: "Recorded by the tests, times rounded down.",
  page: "The printed server and client, both in your browser.",
  live: "The printed client, and the server of make serve.",
};
const MODULES = {
  recording: () => import("./panel/recording.js"),
  page: () => import("./panel/page.js"),
  live: () => import("./panel/live.js"),
};

class Panel {
  constructor(place, sources) {
    this.data = place.dataset;
    this.place = place;
    this.sources = sources;
  }

  /** Builds what all sources have: the choice between them, and the places of their parts. */
  build() {
    this.place.replaceChildren();
    this.place.setAttribute("role", "group");
    this.place.setAttribute("aria-label", "Panel");
    const head = element(this.place, "div", { class: "panel-head" });
    this.buttons = {};
    if (this.sources.length === 1) element(head, "strong", {}, LABELS[this.sources[0]]);
    else this.buildChoice(head);
    this.state = element(head, "p", { class: "panel-state", role: "status" });
    this.body = element(this.place, "div", { class: "panel-body" });
    this.foot = element(this.place, "div", { class: "panel-foot" });
  }

  buildChoice(head) {
    const choice = element(head, "div", {
      class: "panel-choice", role: "group", "aria-label": "Source",
    });
    for (const source of this.sources)
      this.buttons[source] = button(choice, LABELS[source], () => {
        if (this.source === source) return;
        address.set("source", source);
        this.show(source, true);
      });
  }

  /** Shows a source; `isChosen` if the reader has just chosen it. */
  async show(source, isChosen = false) {
    this.shown?.close?.();
    this.shown = undefined;
    this.source = source;
    for (const [name, each] of Object.entries(this.buttons))
      each.setAttribute("aria-pressed", String(name === source));
    this.body.replaceChildren();
    this.foot.replaceChildren();
    const isOrdered = source === "recording" && !("unit" in this.recording);
    this.say(isOrdered ? "Recorded by the tests, in order, not to scale." : WORDS[source]);
    const { open } = await MODULES[source]();
    if (this.source !== source) return;
    const shown = await open(this, isChosen);
    if (this.source === source) this.shown = shown;
    else shown?.close?.();
    this.place.dataset.state = source;
  }

  say(text) {
    if (this.state.textContent !== text) this.state.textContent = text;
  }

  /** Shows the counters that have a value: {label: value}. */
  count(values) {
    this.counters ??= {};
    if (!this.counters.list?.isConnected) {
      this.counters = { list: element(this.foot, "dl", { class: "panel-counters" }) };
      this.foot.prepend(this.counters.list);
    }
    for (const [label, value] of Object.entries(values)) {
      if (value === undefined) continue;
      let shown = this.counters[label];
      if (!shown) {
        const pair = element(this.counters.list, "div");
        element(pair, "dt", {}, label);
        shown = this.counters[label] = element(pair, "dd");
      }
      const text = typeof value === "number" ? numbered(value) : value;
      if (shown.textContent !== text) shown.textContent = text;
    }
  }

  /** The name of what the client sends, as a label. */
  get sent() {
    const words = this.data.sent ?? "requests";
    return words[0].toUpperCase() + words.slice(1);
  }
}

/** Returns a recorded trace, or nothing where it is missing or broken. */
async function recorded(name) {
  try {
    const response = await fetch(new URL(`snippets/${name}`, root));
    return response.ok ? await response.json() : undefined;
  } catch {
    return undefined;
  }
}

async function start(place) {
  const { trace, live, server } = place.dataset;
  const [isServed, recording] = await Promise.all([live && isLive(), trace && recorded(trace)]);
  const sources = [];
  if (recording) sources.push("recording");
  if (server) sources.push("page");
  if (isServed) sources.push("live");
  if (!sources.length) return; // what stands inside stays
  const panel = new Panel(place, sources);
  panel.recording = recording;
  panel.build();
  const wanted = address.get("source");
  const usual = isServed ? "live" : sources[0];
  await panel.show(sources.includes(wanted) ? wanted : usual);
}

const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting) {
        observer.unobserve(target);
        start(target);
      }
  },
  { rootMargin: NEAR },
);
document.querySelectorAll(".panel").forEach((each) => observer.observe(each));
