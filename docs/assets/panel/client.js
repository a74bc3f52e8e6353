// The printed client.html in a panel, and in one of *Run here*: the very file, in the look of the
// site. In a panel it is watched as it sends and receives.

import { address, element, load, root } from "./shared.js";

const COLOURS = [
  "--up", "--down", "--late", "--calm", "--line", "--panel", "--md-accent-fg-color",
  "--md-default-bg-color", "--md-default-fg-color", "--md-default-fg-color--light",
];

/**
 * Puts a client into a frame, in place of one that is there; returns its window, or nothing if it
 * was replaced meanwhile. `query` are the parameters of its address; `prepare(window)` is called
 * before its script runs.
 */
export async function mount(parent, { client, query = "", prepare }) {
  parent.querySelector(".panel-client")?.remove();
  const frame = element(parent, "iframe", {
    class: "panel-client", title: "The browser client", scrolling: "no",
  });
  const [text, style] = await Promise.all([
    load(`examples/${client}`),
    load("assets/panel/client.css"),
    new Promise((resolve) => {
      frame.addEventListener("load", resolve, { once: true });
      frame.src = new URL("assets/frame.html", root);
    }),
  ]);
  const inside = frame.contentWindow;
  if (!inside) return;
  const { document } = inside;
  document.open(); // the policy of this page does not bind it
  prepare(inside);
  // Opened by a script, a document takes the address of that script's page.
  const url = new URL(`examples/${client}`, root);
  url.search = query;
  inside.history.replaceState(null, "", url);
  const sheet = new inside.CSSStyleSheet();
  sheet.replaceSync(style.replaceAll("../fonts/", new URL("assets/fonts/", root).href));
  document.adoptedStyleSheets = [sheet];
  document.write(text);
  document.close();
  follow(frame, parent);
  keepSettings(document);
  return inside;
}

/**
 * Builds inputs for the parameters of the client's address that a panel offers, as its own form;
 * returns a function that returns them. `reload()` is called when one is changed.
 */
export function parameters(panel, parent, reload) {
  const query = new URLSearchParams(panel.data.settings);
  if (!query.size) return () => query;
  const bar = element(parent, "div", { class: "panel-bar" });
  for (const [name, usual] of query) {
    const label = element(bar, "label", {}, `${name}= `);
    const attributes = { type: "number", min: 0, step: "any", required: "" };
    const input = element(label, "input", attributes);
    input.value = address.get(name) ?? usual;
    query.set(name, input.value);
    input.addEventListener("change", () => {
      if (!input.reportValidity()) return;
      query.set(name, input.value);
      address.set(name, input.value === usual ? undefined : input.value);
      reload();
    });
  }
  return () => query;
}

/** Keeps the colours, the size of text and the height of a frame as they are to be. */
function follow(frame, parent) {
  const { documentElement: page, body } = frame.contentDocument;
  const colour = () => {
    if (!frame.isConnected) return watched.disconnect();
    const style = getComputedStyle(parent);
    for (const name of COLOURS) page.style.setProperty(name, style.getPropertyValue(name));
    page.style.fontSize = style.fontSize;
    page.style.colorScheme = style.colorScheme === "normal" ? "light" : style.colorScheme;
  };
  const watched = new MutationObserver(colour);
  watched.observe(document.body, { attributeFilter: ["data-md-color-scheme"] });

  colour();
  new ResizeObserver(() => {
    colour();
    frame.style.height = `${Math.ceil(page.getBoundingClientRect().height)}px`;
  }).observe(page);

  for (const log of body.querySelectorAll(":is(ol, ul):empty")) {
    log.tabIndex = 0; // it scrolls
    log.setAttribute("aria-label", "Log of the client");
    new MutationObserver(() => {
      if (!log.reversed) log.scrollTop = log.scrollHeight;
    }).observe(log, { childList: true });
  }
}

/** Takes the values of the client's inputs from the address of this page, and keeps them there. */
function keepSettings(document) {
  for (const input of document.querySelectorAll("input[id]")) {
    const value = address.get(input.id);
    if (value !== null) input.value = value;
    input.addEventListener("change", () => {
      address.set(input.id, input.value === input.defaultValue ? undefined : input.value);
    });
  }
}

// What passes

// "GET /live/token/jobs/3x…" is "GET /jobs/…"
const short = (words) =>
  words.replace(/\S*(?=\/jobs)/, "").replace(/\/jobs\/[^/\s]+/, "/jobs/…");

// A message of a WebSocket in few words, as in the figures: "1 submit", "pushed done", "4 tick".
function brief(data, from) {
  const { id, status, submit, ack, text, heartbeat } = JSON.parse(data);
  if (heartbeat !== undefined) return "heartbeat";
  if (ack !== undefined) return `ack ${ack}`;
  if (text !== undefined) return `${id} ${text}`;
  if (from === "client") return `${id} ${submit ? "submit" : "status"}`;
  return `${id ?? "pushed"} ${status ?? "error"}`;
}

/** Draws what a client sends and receives into a run. */
export function watch(inside, run) {
  watchFetch(inside, run);
  watchEventSource(inside, run);
  watchWebSocket(inside, run);
}

/** The client's button to stop ends what there is to see of its run. */
export function watchStop(inside, run) {
  inside?.document.getElementById("stop")?.addEventListener("click", () => run.stop());
}

/** Draws each fetch: a request, and its response. */
function watchFetch(inside, run) {
  const real = inside.fetch;
  let isQueue = false; // whose jobs wait before they begin
  inside.fetch = async (resource, options = {}) => {
    const method = options.method ?? "GET";
    const { pathname } = new URL(resource.url ?? resource, inside.location);
    if (method === "POST" && run.isOver && !isQueue) run.clear(); // a new job: a new drawing
    const request = run.request(`${method} ${short(pathname)}`);
    try {
      const response = await real.call(inside, resource, options);
      const isJSON = response.headers.get("content-type")?.startsWith("application/json");
      const body = isJSON ? await response.clone().json().catch(() => ({})) : {};
      const status = typeof body.status === "string" ? body.status : "";
      isQueue ||= "position" in body;
      if (method === "POST" && response.ok && !isQueue) run.startJob(JSON.parse(options.body).seconds);
      if (status === "done") run.jobKnown();
      const state = "position" in body ? `position ${body.position}` : status;
      run.respond(request, `${response.status} ${state}`.trim());
      return response;
    } catch (error) {
      const isAborted = error.name === "AbortError" || options.signal?.aborted;
      if (!isAborted) run.lose(request.sent);
      run.end(request);
      throw error;
    }
  };
}

/** Draws what an EventSource requests, and each event. */
function watchEventSource(inside, run) {
  inside.EventSource = class extends inside.EventSource {
    #types = new Set(["open", "error"]);
    #request;
    #last = "";

    constructor(url, options) {
      super(url, options);
      this.#connect();
      super.addEventListener("open", () => this.#connect()); // again, if it has reconnected
      super.addEventListener("error", () => {
        if (this.#request) this.#end();
        else if (this.readyState === 0) run.lose(run.message("client", "GET: no response"));
      });
    }

    #connect() {
      const after = this.#last && ` after ${this.#last}`;
      const path = short(new URL(this.url, inside.location).pathname);
      this.#request ??= run.request(`GET ${path}${after}`);
    }

    addEventListener(type, ...rest) {
      if (!this.#types.has(type)) {
        this.#types.add(type);
        super.addEventListener(type, ({ lastEventId }) => {
          this.#last = lastEventId;
          if (type === "done") run.jobKnown();
          run.message("server", `event: ${type}`);
        });
      }
      super.addEventListener(type, ...rest);
    }

    close() {
      super.close();
      this.#end();
    }

    #end() {
      if (this.#request) run.end(this.#request);
      this.#request = undefined;
    }
  };
}

/** Draws the upgrade of a WebSocket, and each message. */
function watchWebSocket(inside, run) {
  let wasClosed = true; // by the client, on purpose
  inside.WebSocket = class extends inside.WebSocket {
    constructor(...where) {
      if (wasClosed) run.clear(); // before anything is counted
      super(...where);
      wasClosed = false;
      const { pathname, searchParams } = new URL(this.url);
      const after = searchParams.get("after");
      const text = after ? `/${pathname.split("/").at(-1)}?after=${after}` : "GET, upgrade";
      const upgrade = run.message("client", text);
      run.open.add(this);
      let isOpen = false;
      this.addEventListener("open", () => {
        isOpen = true;
        run.message("server", "101");
      });
      this.addEventListener("message", ({ data }) => {
        if (JSON.parse(data).status === "done") run.jobKnown();
        run.message("server", brief(data, "server"));
      }, { capture: true }); // before the client responds to it
      this.addEventListener("close", ({ code }) => {
        run.open.delete(this);
        wasClosed = code === 1000 || code === 1005;
        if (!isOpen) run.lose(upgrade);
        run.note("client", `close ${code}`);
      });
    }

    send(data) {
      super.send(data);
      run.message("client", brief(data, "client"));
      const { submit } = JSON.parse(data);
      if (submit) run.startJob(submit.seconds);
    }
  };
}
