// The panels. With a live server (`make serve`) a panel shows the very client.html that its page
// prints, in a frame, and draws each fetch as it happens. Elsewhere it replays the recorded run.
//
// A panel is <div class="panel" data-client="…" data-live="…" data-trace="…">: the client to show,
// the prefix under which its server is mounted, the recorded trace. What stands inside is there
// for readers without JavaScript and is replaced.

import { draw, until } from "./sequence.js";

const root = new URL("..", import.meta.url);
const FRAME = 150; // milliseconds between drawings: the client is to be watched, not slowed down
const SECOND = 56; // pixels of a figure for one second of a live run
const AT_ONCE = 0.1; // seconds: the way of a request and its response

/** A sequence diagram in a panel that follows a run; what is newest is scrolled into view. */
class Diagram {
  constructor(panel) {
    this.frame = element(panel, "div", {
      class: "panel-wire",
      tabindex: "0",
      role: "region",
      "aria-label": "Sequence of messages",
    });
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("class", "figure sequence");
    this.svg.setAttribute("role", "img");
    this.title = this.svg.appendChild(document.createElementNS(this.svg.namespaceURI, "title"));
    this.frame.append(this.svg);
    this.describe("No messages yet.");
    draw(this.svg, { lanes: ["client", "server"], unit: "s", messages: [] });
  }

  draw(trace) {
    const { scrollHeight, scrollTop, clientHeight } = this.frame;
    const follows = scrollHeight - scrollTop - clientHeight < SECOND; // nobody has scrolled up
    draw(this.svg, trace);
    if (follows) this.frame.scrollTop = this.frame.scrollHeight;
  }

  describe(text) {
    this.title.textContent = text;
  }
}

/** The trace of a live run, drawn while it grows. */
class LiveRun {
  constructor(panel) {
    this.diagram = new Diagram(panel);
    this.clear();
  }

  /** Begins anew: the next message is at 0. */
  clear() {
    this.start = undefined; // of the first message, in milliseconds
    this.job = this.done = undefined;
    this.known = false;
    this.open = new Set(); // requests that wait for a response
    this.trace = {
      lanes: ["client", "server"],
      unit: "s",
      scale: SECOND,
      messages: [],
      bars: [],
      notes: [],
    };
  }

  get now() {
    return (performance.now() - (this.start ??= performance.now())) / 1000;
  }

  /** Adds a message; returns its position. */
  message(from, text) {
    const to = from === "client" ? "server" : "client";
    const { messages } = this.trace;
    messages.push({ at: this.now, from, to, text });
    const sent = messages.filter((each) => each.from === "client").length;
    this.diagram.describe(`Messages sent by the client: ${sent}, received: ${messages.length - sent}.`);
    this.draw();
    return messages.length - 1;
  }

  /** Adds a request that is open until it is given a response or an end. */
  request(text) {
    const request = { kind: "held", messages: [this.message("client", text)] };
    this.open.add(request);
    this.draw();
    return request;
  }

  respond(request, text) {
    if (!this.open.has(request)) return; // of a drawing before this one
    request.messages.push(this.message("server", text));
    this.open.delete(request);
    this.draw();
  }

  /** Ends a request that gets no response, or whose response has ended. */
  end(request, text) {
    if (!this.open.delete(request)) return;
    request.end = this.now;
    if (text) this.note("client", text);
    this.draw();
  }

  note(lane, text, at = this.now) {
    const note = { at, lane, text };
    this.trace.notes.push(note);
    this.draw();
    return note;
  }

  startJob(seconds) {
    const start = this.now;
    const end = start + seconds;
    this.job = { kind: "job", lane: "server", start, end, text: "job" };
    this.trace.bars.push(this.job);
    this.done = this.note("server", "done", end);
  }

  /** The client knows that the job is done. */
  jobKnown() {
    const { job, now } = this;
    if (!job || this.known) return;
    this.known = true;
    job.end = this.done.at = Math.min(job.end, now);
    if (now - job.end >= AT_ONCE)
      this.trace.bars.push({ kind: "late", lane: "client", start: job.end, end: now, text: "late" });
  }

  draw() {
    clearTimeout(this.timer);
    const { now } = this;
    const { bars, messages } = this.trace;
    for (const request of this.open)
      if (!bars.includes(request) && now - messages[request.messages[0]].at >= AT_ONCE)
        bars.push(request);
    this.diagram.draw(until(this.trace, now));
    if (this.open.size || now < (this.job?.end ?? -1) + 1)
      this.timer = setTimeout(() => this.draw(), FRAME);
  }
}

function element(parent, name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
}

function frameOf(panel, state, words) {
  panel.replaceChildren();
  panel.dataset.state = state;
  const line = element(panel, "p", { class: "panel-state" });
  element(line, "strong", {}, state === "live" ? "Live." : "Replay.");
  line.append(words);
}

// A message of a WebSocket in two words, as in the figures: "1 submit", "1 pending", "pushed done".
function brief(data, from) {
  const { id, status, submit } = JSON.parse(data);
  if (from === "client") return `${id} ${submit ? "submit" : "status"}`;
  return `${id ?? "pushed"} ${status ?? "error"}`;
}

// "GET /live/token/jobs/3x…" is "GET /jobs/…"
const short = (words) =>
  words.replace(/\S*(?=\/jobs)/, "").replace(/\/jobs\/[^/\s]+/, "/jobs/…");

/** Draws each fetch of the client: a request, and its response. */
function watchFetch(inside, run) {
  const real = inside.fetch;
  inside.fetch = async (resource, options = {}) => {
    const method = options.method ?? "GET";
    const { pathname } = new URL(resource.url ?? resource, inside.location);
    if (method === "POST") run.clear(); // a new job: a new drawing
    const request = run.request(`${method} ${short(pathname)}`);
    try {
      const response = await real.call(inside, resource, options);
      const body = await response.clone().json().catch(() => ({}));
      const status = typeof body.status === "string" ? body.status : "";
      if (method === "POST" && response.ok) run.startJob(JSON.parse(options.body).seconds);
      if (status === "done") run.jobKnown();
      run.respond(request, `${response.status} ${status}`.trim());
      return response;
    } catch (error) {
      run.end(request, error.name === "AbortError" ? "abort" : "failed");
      throw error;
    }
  };
}

/** Draws what an EventSource of the client requests, and each event. */
function watchEventSource(inside, run) {
  inside.EventSource = class extends inside.EventSource {
    #types = new Set(["open", "error"]);
    #request;

    constructor(url, options) {
      super(url, options);
      const connect = () =>
        (this.#request ??= run.request(`GET ${short(new URL(this.url).pathname)}`));
      connect();
      super.addEventListener("open", connect); // again, if the browser has reconnected
      super.addEventListener("error", () => this.#end());
    }

    addEventListener(type, ...rest) {
      if (!this.#types.has(type)) {
        this.#types.add(type);
        super.addEventListener(type, () => {
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

/** Draws the upgrade of a WebSocket of the client, and each message. */
function watchWebSocket(inside, run) {
  inside.WebSocket = class extends inside.WebSocket {
    constructor(...where) {
      super(...where);
      run.clear();
      run.message("client", "GET, upgrade");
      this.addEventListener("open", () => run.message("server", "101"));
      this.addEventListener("message", ({ data }) => {
        if (JSON.parse(data).status === "done") run.jobKnown();
        run.message("server", brief(data, "server"));
      });
      this.addEventListener("close", ({ code }) => run.note("client", `close ${code}`));
    }

    send(data) {
      super.send(data);
      run.message("client", brief(data, "client"));
      const { submit } = JSON.parse(data);
      if (submit) run.startJob(submit.seconds);
    }
  };
}

/** Puts the real client into a frame, with the address of its server; returns the frame. */
function clientOf(panel) {
  frameOf(panel, "live", "This is the browser client below, talking to the server printed below.");
  const source = new URL(`examples/${panel.dataset.client}`, root);
  source.searchParams.set("url", new URL(`live/${panel.dataset.live}`, root).pathname);
  const frame = element(panel, "iframe", { title: "The browser client", src: source });
  frame.addEventListener("load", () => {
    const inside = frame.contentWindow.document;
    new ResizeObserver(() => {
      frame.style.height = `${inside.documentElement.offsetHeight + 8}px`;
    }).observe(inside.body);
  });
  return frame;
}

/** The real client, and its messages as they pass. */
function live(panel) {
  const frame = clientOf(panel);
  const run = new LiveRun(panel);
  frame.addEventListener("load", () => {
    for (const watch of [watchFetch, watchEventSource, watchWebSocket])
      watch(frame.contentWindow, run);
  });
}

/** Returns a recorded trace, or nothing where it is missing. */
async function recorded(name) {
  try {
    const response = await fetch(new URL(`snippets/${name}`, root));
    return response.ok ? await response.json() : undefined;
  } catch {
    return undefined;
  }
}

/** The recorded run, drawn again as slowly as it went. */
async function replay(panel) {
  const trace = await recorded(panel.dataset.trace);
  if (!trace) return; // what stands inside stays
  frameOf(
    panel,
    "replay",
    "A recorded run, its times rounded down. To talk to a real server, run make serve.",
  );
  const button = element(panel, "button", { type: "button" }, "Play");
  const count = element(panel, "output");
  const diagram = new Diagram(panel);
  const last = trace.messages.at(-1).at;
  let playing = 0;

  button.addEventListener("click", () => {
    const turn = (playing += 1); // a second click starts anew
    const start = performance.now();
    panel.dataset.done = "no";

    (function next() {
      if (turn !== playing) return;
      const now = (performance.now() - start) / 1000;
      const soFar = now < last + 0.5 ? until(trace, now) : trace;
      const sent = soFar.messages.filter(({ from }) => from === "client").length;
      count.textContent = `${sent} ${panel.dataset.sent ?? "requests"}`;
      diagram.describe(`The recorded run so far: ${count.textContent}.`);
      diagram.draw(soFar);
      if (soFar !== trace) setTimeout(next, FRAME);
      else panel.dataset.done = "yes";
    })();
  });
}

/** A client that shows all there is by itself: nothing to draw, and nothing to replay. */
function alone(panel, isLive) {
  if (isLive) clientOf(panel); // or else what stands inside says what is missing
}

const panels = document.querySelectorAll(".panel");
if (panels.length) {
  // Both kinds of server have this file, with different contents. Offline there is none.
  const { live: isLive } = await fetch(new URL("assets/live.json", root))
    .then((response) => response.json())
    .catch(() => ({ live: false }));
  for (const panel of panels)
    if (panel.dataset.trace) (isLive ? live : replay)(panel);
    else alone(panel, isLive);
}
