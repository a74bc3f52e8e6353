// The race: one job with all techniques, drawn on one scale of time.
//
// <div class="race"> holds the recorded figure, which stays for readers without JavaScript. What is
// drawn has one of these sources, and the caption says which:
//
//   recorded    snippets/choosing/runs.json, as long as the settings are those of the recorded job
//   calculated  calculate(), for all other settings
//   page        the servers of this site, run in this page: `data-server` mounts them all
//   live        the same servers, if the site is served by `make serve`
//
// The source and the settings are kept in the address of the page.
//
// tests/test_choosing.py holds calculate() and the recording equal, the drawing here and the one of
// tests/support/figures.py too, and a race with servers and its calculation.

import { address, button, element, isLive, load, root } from "./panel/shared.js";

const NAMES = {
  short_polling: "Short polling",
  long_polling: "Long polling",
  server_sent_events: "Server-sent events",
  websockets: "WebSocket",
  webhooks: "Webhook",
};
export const RECORDED = { seconds: 4.5, interval: 1, events: 3, every: false, delay: 0 };

// The calculation. All times are milliseconds since the job began. A message arrives one delay after
// it was sent, and a connection is open after two. Servers and clients take no time.

const RULES = {
  // The client waits for an interval after each response.
  short_polling(race, interval) {
    let now = race.submit();
    while (race.due.length) {
      const arrives = race.request("client", now + interval);
      now = race.send("server", arrives);
      race.deliver(arrives, now);
    }
  },

  // The server responds to a poll when there is something new. (The longest job is shorter than the
  // 25 seconds for which the servers here hold a request.)
  long_polling(race) {
    let now = race.submit();
    while (race.due.length) {
      const sent = now;
      const responds = Math.max(race.request("client", sent), race.due[0]);
      now = race.send("server", responds);
      race.deliver(responds, now);
      race.open.push([sent, now]);
    }
  },

  // One request; each event is sent when it happens.
  server_sent_events(race) {
    const sent = race.submit();
    const begins = race.request("client", sent);
    while (race.due.length) {
      const at = Math.max(begins, race.due[0]);
      race.deliver(race.due[0], race.send("server", at));
    }
    race.open.push([sent, race.known]);
  },

  // The handshake, then a message that submits the job, its response, and pushes.
  websockets(race, _, delay) {
    race.start = -5 * delay;
    race.request("client", -3 * delay);
    race.send("server", -2 * delay);
    race.send("client", -delay);
    race.send("server", 0);
    while (race.due.length) race.deliver(race.due[0], race.send("server", race.due[0]));
    race.open.push([-delay, race.known]);
  },

  // The server opens a connection for each message, and sends a request.
  webhooks(race, _, delay) {
    race.submit();
    while (race.due.length) {
      const known = race.request("server", race.due[0] + 2 * delay);
      race.deliver(race.due[0], known);
      race.send("client", known);
    }
  },
};

/** What passes between one client and its server. */
class Lane {
  messages = []; // {at, arrives, from, request}
  open = []; // [from, to], while a request or a connection is open
  requests = 0;
  deliveries = 0; // messages that brought something new
  late = 0; // of the result; if the client is to receive every event, of the latest
  known = 0; // when the last event arrived

  constructor(due, delay, every) {
    this.due = due; // when each event happens that the client is to receive
    this.every = every;
    this.delay = delay;
    this.start = -3 * delay; // when the client opens its connection
  }

  send(from, at) {
    const arrives = at + this.delay;
    this.messages.push({ at, arrives, from });
    return arrives;
  }

  request(from, at) {
    this.requests += 1;
    const arrives = this.send(from, at);
    this.messages.at(-1).request = true;
    return arrives;
  }

  /** Submits the job, which begins when the request arrives; returns when the response does. */
  submit() {
    return this.send("server", this.request("client", -this.delay));
  }

  /** Receives all events that have happened by a time. */
  deliver(until, arrives) {
    if (this.due[0] <= until) this.deliveries += 1;
    while (this.due[0] <= until) {
      const late = arrives - this.due.shift();
      this.late = this.every ? Math.max(this.late, late) : late;
    }
    this.known = arrives;
  }
}

/**
 * Calculates a lane. `seconds` of the job and the `interval` between polls; the job reports progress
 * as often as `events` says, and the client receives `every` event or the result only; `delay` of a
 * message, each way. The event stream carries every event anyway, as its server does here.
 */
export function calculate(name, { seconds, interval, events, every, delay }) {
  const whole = (value) => Math.round(value * 1000);
  const due = Array.from({ length: events }, (_, number) => whole((seconds * number) / events));
  const all = every || name === "server_sent_events" ? due : [];
  const lane = new Lane([...all, whole(seconds)], whole(delay), every);
  RULES[name](lane, whole(interval), whole(delay));
  lane.name = NAMES[name];
  lane.repeated = name.endsWith("polling") ? lane.requests - 1 : lane.deliveries;
  return lane;
}

/** Returns the bytes of a calculated lane: those of the recorded run, and of each message more. */
export function bytes(name, lane, { up, down, more }) {
  const times = lane.repeated - calculate(name, RECORDED).repeated;
  return up + down + times * (more.up + more.down);
}

// The drawing: see race() in tests/support/figures.py.

const WIDTH = 360;
const [LEFT, RIGHT, TOP, PITCH] = [12, 344, 40, 52];

/** Draws lanes into an <svg>, as they are at a time; times in milliseconds. */
export function draw(svg, lanes, job, now = Infinity) {
  const first = Math.min(0, ...lanes.map(({ start }) => start));
  const last = Math.max(job, ...lanes.flatMap((lane) => lane.messages.map(({ arrives }) => arrives)));
  const end = Math.max((last - first) * 1.05, ((job - first) * (RIGHT - LEFT)) / (300 - LEFT));
  const x = (at) => LEFT + ((at - first) / end) * (RIGHT - LEFT);
  const height = TOP + PITCH * lanes.length + 2;

  const done = Math.min(job, Math.max(0, now));
  const shapes = [rect(x(0), 8, x(done) - x(0), 10, "job", 5)];
  if (now >= job) shapes.push(text(x(job) + 6, 15, "job done", "note"));
  shapes.push(...ticks(first, first + end, x));
  lanes.forEach((lane, row) => shapes.push(...drawn(lane, TOP + PITCH * row + 32, x, job, now)));
  shapes.push(...legend(height));
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height + 18}`);
  svg.replaceChildren(...svg.querySelectorAll("title, desc"), ...shapes);
}

function ticks(first, end, x) {
  const pixels = (x(end) - x(first)) / (end - first); // of a millisecond
  const step = [200, 500, 1000, 2000, 5000, 10_000].find((each) => each * pixels > 38);
  const shapes = [];
  for (let at = 0; at <= end; at += step)
    shapes.push(text(x(at), 33, at ? `${at / 1000} s` : "0", "tick", at ? "middle" : "start"));
  return shapes;
}

function drawn(lane, y, x, job, now) {
  const name = text(LEFT, y - 21, lane.name, "lane");
  const note = shape("tspan", { class: "note", dx: 10 });
  note.textContent = now < Infinity ? counted(lane, now) : lane.note;
  name.append(note);
  const shapes = [name];
  if (now >= job) shapes.push(line(x(job), y - 16, x(job), y + 16, "grid"));
  shapes.push(line(LEFT, y, RIGHT, y, "life"));
  const bar = (from, to, height, css, round = 0) => {
    const foot = Math.min(to, now);
    if (foot > from)
      shapes.push(rect(x(from), y - height / 2, x(foot) - x(from), height, css, round));
  };
  if (lane.start < 0) bar(lane.start, lane.messages[0].at, 6, "set-up");
  for (const [from, to] of lane.open) bar(from, to, 10, "held");
  if (lane.known > job) bar(job, lane.known, 6, "late", 3);
  const seen = new Set();
  for (const { at, arrives, from } of lane.messages) {
    const key = `${at} ${from}`;
    if (at > now || seen.has(key)) continue;
    seen.add(key);
    const css = from === "client" ? "up" : "down";
    shapes.push(...arrow(x(at), y, x(arrives), css === "up" ? y - 16 : y + 16, css));
  }
  return shapes;
}

function counted(lane, now) {
  return plural(lane.messages.filter(({ at, request }) => request && at <= now).length);
}

function plural(requests) {
  return `${requests} request${requests === 1 ? "" : "s"}`;
}

function legend(y) {
  const places = [
    ["up", "to the server", 8],
    ["down", "to the client", 129.6],
    ["held", "open", 246.2],
    ["late", "late", 309.4],
  ];
  return places.flatMap(([css, words, x]) => [
    css === "held" || css === "late"
      ? rect(x, y + 1, 14, 10, css)
      : line(x, y + 6, x + 14, y + 6, css),
    text(x + 20, y + 10, words, "note"),
  ]);
}

function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes))
    made.setAttribute(name, typeof value === "number" ? rounded(value) : value);
  return made;
}

function rounded(value) {
  return Math.floor(value * 10 + 0.5) / 10;
}

function line(x1, y1, x2, y2, css) {
  return shape("line", { x1, y1, x2, y2, class: css });
}

function rect(x, y, width, height, css, rx = 0) {
  return shape("rect", { x, y, width, height, rx, class: css });
}

function text(x, y, words, css, anchor = "start") {
  const made = shape("text", { x, y, class: css, "text-anchor": anchor });
  made.append(words);
  return made;
}

function arrow(x1, y1, x2, y2, css) {
  const length = Math.hypot(x2 - x1, y2 - y1);
  const [along, down] = [(x2 - x1) / length, (y2 - y1) / length];
  const [x, y] = [x2 - 7 * along, y2 - 7 * down];
  const corners = [[x2, y2], [x - 4 * down, y + 4 * along], [x + 4 * down, y - 4 * along]];
  const points = corners.map((corner) => corner.map(rounded).join()).join(" ");
  return [line(x1, y1, x, y, css), shape("polygon", { points, class: css })];
}

// The race with servers: those of this site, and clients in this browser.

const LIVE = { window, base: new URL("live", root) };

/** A lane that grows. */
class LiveLane {
  messages = [];
  open = [];
  start = 0;
  known = 0;

  constructor(name, clock, window) {
    this.name = NAMES[name];
    this.clock = clock;
    this.window = window;
  }

  pass(from, request = false) {
    const at = this.clock();
    this.messages.push({ at, arrives: at, from, request });
  }

  /** Draws something as open until the function that this returns is called. */
  hold() {
    const span = [this.clock(), Infinity];
    this.open.push(span);
    return () => (span[1] = this.clock());
  }

  async fetch(url, options = {}) {
    this.pass("client", true);
    const response = await this.window.fetch(url, { cache: "no-store", ...options });
    this.pass("server");
    if (!response.ok) throw new Error(`status ${response.status}`);
    return response.json();
  }

  async submit(base, seconds, signal) {
    const body = JSON.stringify({ seconds });
    const { token } = await this.fetch(`${base}/jobs`, { method: "POST", body, signal });
    return `${base}/jobs/${token}`;
  }
}

const CLIENTS = {
  async short_polling(lane, base, { seconds, interval }, signal) {
    const url = await lane.submit(base, seconds, signal);
    do await sleep(interval);
    while ((await lane.fetch(url, { signal })).status !== "done");
  },

  async long_polling(lane, base, { seconds }, signal) {
    const url = await lane.submit(base, seconds, signal);
    let job;
    do {
      const release = lane.hold();
      job = await lane.fetch(url, { signal, headers: { Prefer: "wait=25" } }).finally(release);
    } while (job.status !== "done");
  },

  async server_sent_events(lane, base, { seconds }, signal) {
    const url = await lane.submit(base, seconds, signal);
    const release = lane.hold();
    lane.pass("client", true);
    const source = new lane.window.EventSource(`${url}/events`);
    await new Promise((resolve, reject) => {
      signal.addEventListener("abort", reject);
      source.addEventListener("error", () => reject(new Error("the stream ended")));
      source.addEventListener("progress", () => lane.pass("server"));
      source.addEventListener("done", () => resolve(lane.pass("server")));
    }).finally(() => {
      source.close();
      release();
    });
  },

  async websockets(lane, base, { seconds }, signal) {
    lane.pass("client", true);
    const socket = new lane.window.WebSocket(`${base}/jobs/socket`.replace("http", "ws"));
    let release = () => {};
    await new Promise((resolve, reject) => {
      signal.addEventListener("abort", reject);
      socket.addEventListener("close", ({ code }) => reject(new Error(`close ${code}`)));
      socket.addEventListener("open", () => {
        lane.pass("server");
        release = lane.hold();
        socket.send(JSON.stringify({ id: 1, submit: { seconds } }));
        lane.pass("client");
      });
      socket.addEventListener("message", ({ data }) => {
        lane.pass("server");
        if (JSON.parse(data).status === "done") resolve();
      });
    }).finally(() => {
      socket.close();
      release();
    });
  },
};

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/**
 * Starts all clients; returns their lanes, and a promise of the end of each. The servers are below
 * `base`, which is reached with what `window` has.
 */
export function runLive(settings, signal, { window, base }) {
  const start = performance.now();
  const clock = () => performance.now() - start;
  const ended = [];
  const lanes = Object.keys(NAMES).map((name) => {
    const lane = new LiveLane(name, clock, window);
    if (CLIENTS[name])
      ended.push(
        CLIENTS[name](lane, `${base}/${name}`, settings, signal).then(
          () => (lane.known = lane.messages.at(-1).at),
          (error) => (lane.failure = error?.message ?? "stopped"),
        ),
      );
    else lane.failure = "a browser cannot receive it";
    return lane;
  });
  return { lanes, clock, ended: Promise.all(ended) };
}

const IN_PAGE = new URL("http://127.0.0.1:8000"); // where the servers are, for a client in the page

/** Starts the program that mounts all servers, in a worker; returns what reaches it. */
async function startInPage(server) {
  const [{ Machine, patch }, program] = await Promise.all([
    import("./runtime/network.js"),
    load(`examples/${server}`),
  ]);
  const imported = program.matchAll(/^from (examples\.\w+\.server) import/gm);
  const modules = new Set(Array.from(imported, ([, module]) => `${module.replaceAll(".", "/")}.py`));
  const files = { "site/index.html": "" }; // it serves pages, too
  const machine = new Machine(new URL("assets/runtime/worker.js", root));
  const read = async (name) => (files[name] = await load(name));
  await Promise.all([machine.ready, ...[`examples/${server}`, ...modules].map(read)]);
  const started = new Promise((resolve, reject) => {
    machine.addEventListener("listening", ({ detail }) => resolve(detail.port));
    machine.addEventListener("exit", ({ detail }) => reject(new Error(`status ${detail.status}`)));
  });
  machine.run({ folder: "/servers", name: `examples/${server}`, files });
  // What the clients use of a window.
  const inside = { document, location, fetch, Request, Response };
  Object.assign(inside, { EventTarget, Event, MessageEvent, CloseEvent });
  patch(inside, machine, IN_PAGE, await started);
  return { window: inside, base: new URL("live", IN_PAGE) };
}

let inPage; // one for all races

// The controls.

const SLIDERS = {
  seconds: ["length of the job", 0.5, 20, 0.5, (value) => `${value} s`],
  interval: ["polling interval", 0.2, 5, 0.1, (value) => `${value} s`],
  events: ["progress events", 0, 20, 1, (value) => `${value}`],
  delay: ["network delay, each way", 0, 0.5, 0.01, (value) => `${Math.round(value * 1000)} ms`],
};
const PRESETS = {
  "Recorded job": RECORDED,
  "Many events": { seconds: 10, interval: 1, events: 20, every: true, delay: 0.02 },
  "Slow network": { seconds: 4.5, interval: 1, events: 0, every: false, delay: 0.25 },
};
const CAPTIONS = {
  recorded: "Recorded: one run of the programs on the pages, times rounded to half seconds.",
  calculated: "Calculated from the rules of the pages; for the recorded job it gives what was recorded.",
  page: "In this page: the programs on the pages, and their clients, both in your browser.",
  live: "Live: the programs on the pages, run by this site, and this browser.",
};
const SOURCES = {
  recording: "Recording",
  page: "In this page (9 MB)",
  live: "Live server",
};
const LONGEST = 8000; // milliseconds that the drawing of a race takes
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** One race on a page. */
class Race {
  constructor(parent, runs, sources) {
    this.runs = runs;
    this.server = parent.dataset.server;
    this.svg = parent.querySelector("svg");
    this.caption = parent.querySelector("figcaption");
    const box = parent.firstElementChild;
    this.form = element(box, "form", { class: "race-controls", "aria-label": "The race" });
    this.button = element(this.form, "button", { class: "race-run" }, "Run the race");
    this.inputs = Object.fromEntries(Object.keys(SLIDERS).map((name) => [name, this.slider(name)]));
    this.inputs.every = this.checkbox("the client receives every event, not only the result");
    this.inputs.source = this.menu(sources);
    const presets = element(this.form, "p", { class: "race-presets" });
    for (const [words, settings] of Object.entries(PRESETS))
      button(presets, words, () => {
        this.set({ ...settings, source: "recording" });
        for (const name in this.inputs) this.keep(name);
        this.run();
      });
    this.results = element(this.form, "p", { class: "race-results", role: "status" });
    this.usual = { ...RECORDED, source: sources.includes("live") ? "live" : "recording" };
    this.set(this.usual);
    this.restore(sources);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    this.form.addEventListener("input", () => {
      this.stop();
      this.label();
      this.show();
    });
    this.form.addEventListener("change", ({ target }) => this.keep(target.name));
  }

  slider(name) {
    const [words, min, max, step] = SLIDERS[name];
    const label = element(this.form, "label", {}, words);
    const shown = element(label, "b");
    const input = element(label, "input", { type: "range", name, min, max, step, "aria-label": words });
    return Object.assign(input, { shown });
  }

  checkbox(words) {
    const label = element(this.form, "label", { class: "race-check" });
    const input = element(label, "input", { type: "checkbox", name: "every" });
    label.append(words);
    return input;
  }

  /** Builds the choice between sources, which is hidden if there is one only. */
  menu(sources) {
    const label = element(this.form, "label", {}, "Source");
    label.hidden = sources.length === 1;
    const select = element(label, "select", { name: "source" });
    for (const value of sources) element(select, "option", { value }, SOURCES[value]);
    return select;
  }

  set({ every, ...settings }) {
    for (const [name, value] of Object.entries(settings)) this.inputs[name].value = value;
    this.inputs.every.checked = `${every}` === "true";
    this.label();
  }

  /** Takes the settings that the address of the page has. */
  restore(sources) {
    const found = Object.keys(this.usual).map((name) => [name, address.get(name)]);
    const kept = found.filter(([name, value]) => value && (name !== "source" || sources.includes(value)));
    if (!kept.length) return;
    this.set({ ...this.usual, ...Object.fromEntries(kept) });
    this.show();
  }

  /** Keeps a setting in the address of the page. */
  keep(name) {
    const value = String({ ...this.settings, source: this.source }[name]);
    address.set(name, value === String(this.usual[name]) ? undefined : value);
  }

  label() {
    for (const name in SLIDERS) {
      const input = this.inputs[name];
      input.shown.textContent = SLIDERS[name][4](input.value);
      input.setAttribute("aria-valuetext", input.shown.textContent);
    }
    // With servers, a job reports what its server sends, over the network that there is.
    for (const name of ["events", "delay", "every"])
      this.inputs[name].disabled = this.source !== "recording";
  }

  get source() {
    return this.inputs.source.value;
  }

  get settings() {
    const numbers = Object.keys(SLIDERS).map((name) => [name, Number(this.inputs[name].value)]);
    return { ...Object.fromEntries(numbers), every: this.inputs.every.checked };
  }

  /** Returns the source of what is to be drawn, and its lanes. */
  get lanes() {
    const { settings } = this;
    const isRecorded = Object.keys(RECORDED).every((name) => settings[name] === RECORDED[name]);
    const lanes = Object.entries(this.runs).map(([name, run]) => {
      const lane = isRecorded ? played(run) : calculate(name, settings);
      const size = isRecorded ? run.up + run.down : bytes(name, lane, run);
      lane.note = noted(lane.requests, lane.late, size, settings.every);
      return lane;
    });
    return { source: isRecorded ? "recorded" : "calculated", lanes };
  }

  /** Draws the end of the race. */
  show() {
    const { source, lanes } = this.lanes;
    this.tell(source, lanes);
    draw(this.svg, lanes, this.settings.seconds * 1000);
  }

  tell(source, lanes, words = "") {
    this.caption.textContent = CAPTIONS[source] + words;
    this.svg.querySelector("title").textContent = `Five techniques on one job, ${source}`;
    this.svg.querySelector("desc").textContent = lanes
      .map(({ name, note }) => `${name}: ${note}.`)
      .join(" ");
  }

  stop() {
    this.running?.abort();
    this.running = undefined;
  }

  run() {
    this.stop();
    this.running = new AbortController();
    this.results.textContent = "";
    if (this.source === "recording") this.play(this.running.signal);
    else this.runForReal(this.source, this.running.signal);
  }

  play(signal) {
    const { source, lanes } = this.lanes;
    const job = this.settings.seconds * 1000;
    const first = Math.min(0, ...lanes.map(({ start }) => start));
    const last = Math.max(...lanes.flatMap((lane) => lane.messages.map(({ arrives }) => arrives)));
    const speed = Math.max(1, (last - first) / LONGEST);
    const faster = speed > 1 ? ` Played ${rounded(speed)} times as fast.` : "";
    this.tell(source, lanes, faster);
    const start = performance.now();
    const frame = () => {
      if (signal.aborted) return;
      const now = first + (performance.now() - start) * speed;
      if (now > last || still.matches) {
        draw(this.svg, lanes, job);
        this.finish(lanes);
      } else {
        draw(this.svg, lanes, job, now);
        requestAnimationFrame(frame);
      }
    };
    frame();
  }

  async runForReal(source, signal) {
    const { settings } = this;
    const job = settings.seconds * 1000;
    let servers = LIVE;
    if (source === "page") {
      this.say("Loading CPython: 9 MB, once.");
      try {
        servers = await (inPage ??= startInPage(this.server));
      } catch (error) {
        inPage = undefined;
        if (!signal.aborted) this.say(`The servers cannot start: ${error.message}`);
        return;
      }
      if (signal.aborted) return;
    }
    const { lanes, clock, ended } = runLive(settings, signal, servers);
    this.tell(source, []);
    let running = true;
    const frame = () => {
      if (signal.aborted || !running) return;
      draw(this.svg, lanes, job, clock());
      if (still.matches) setTimeout(frame, 500);
      else requestAnimationFrame(frame);
    };
    frame();
    await ended;
    if (signal.aborted) return;
    running = false;
    for (const lane of lanes) {
      const requests = lane.messages.filter(({ request }) => request).length;
      // A busy machine adds some, which is not the point.
      const late = Math.floor(Math.max(0, lane.known - job) / 100) * 100;
      lane.note = lane.failure ?? noted(requests, late);
    }
    this.tell(source, lanes);
    draw(this.svg, lanes, job);
    this.finish(lanes);
  }

  say(text) {
    this.caption.textContent = this.results.textContent = text;
  }

  finish(lanes) {
    this.results.textContent = lanes.map(({ name, note }) => `${name}: ${note}.`).join(" ");
  }
}

function noted(requests, late, size, most) {
  const parts = [plural(requests), `${most ? "up to " : ""}${Math.round(late) / 1000} s late`];
  if (size) parts.splice(1, 0, `${size.toLocaleString("en")} B`);
  return parts.join(" · ");
}

/** Returns a recorded lane as one to draw. */
function played({ name, requests, late, open, messages }) {
  const passed = messages.map(([at, from, request]) => ({
    at: at * 1000,
    arrives: at * 1000,
    from,
    request,
  }));
  return {
    name,
    requests,
    late: late * 1000,
    start: 0,
    known: passed.at(-1).at,
    open: open.map((span) => span.map((at) => at * 1000)),
    messages: passed,
  };
}

/** Returns the sources of a race. */
async function available({ server }) {
  const isInPage = server && "Suspending" in WebAssembly;
  return ["recording", isInPage && "page", (await isLive()) && "live"].filter(Boolean);
}

// Without the recording, or offline before it was loaded, the figure stays as it is.
for (const parent of document.querySelectorAll(".race"))
  Promise.all([load("snippets/choosing/runs.json"), available(parent.dataset)])
    .then(([runs, sources]) => new Race(parent, JSON.parse(runs), sources))
    .catch(() => {});
