// What passes between the page and a program that runs in it: a sequence diagram, and counters.

import { Diagram } from "./panel/diagram.js";
import { element, numbered } from "./panel/shared.js";

const SHOWN = 40; // messages and notes, the newest
const LONGEST = 3; // seconds that a diagram gives to a time in which nothing passes
const AT_ONCE = 0.1; // seconds: a shorter request is not drawn as held
const FRAME = 150; // milliseconds between drawings
const WIDEST = 100; // characters of a message: there is no room for more
const NUMBERS = [..."①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"];
const COUNTERS = {
  requests: "Requests", up: "Bytes sent", down: "Bytes received", connections: "Connections",
  open: "Open now",
};

const shortPath = (path) => path.replace(/[\w-]{20,}/g, "…");

/** Returns what a message is called in a diagram. */
function words({ kind, method, path, status, data }) {
  if (kind === "request") return `${method} ${shortPath(path)}`;
  if (kind === "response") {
    let body = {};
    try {
      body = JSON.parse(data);
    } catch {
      // Not JSON, or cut off.
    }
    const text = typeof body?.status === "string" ? body.status : body?.message;
    return `${status} ${text ?? ""}`.trim();
  }
  if (kind === "event") {
    const [, type] = /^event: ?(.*)$/m.exec(data) ?? [];
    const [, first] = /^data: ?(.*)$/m.exec(data) ?? [];
    return type ? `event: ${type}` : first ? `event: ${first}` : "comment";
  }
  return kind === "message" ? data ?? "binary" : `${kind} ${data ?? ""}`.trim();
}

export class Wire {
  #timer;
  #marks = []; // what happened, in order
  #exchanges = new Map(); // by connection: the request that is open
  #numbers = new Map(); // by connection
  #isConcurrent = false; // two connections were open at the same time
  #since; // the counters when the program started

  constructor(parent, machine) {
    this.machine = machine;
    this.diagram = new Diagram(parent, "runner-wire");
    const counters = element(parent, "dl", { class: "runner-counters" });
    this.counters = Object.entries(COUNTERS).map(([name, label]) => {
      const pair = element(counters, "div");
      element(pair, "dt", {}, label);
      return element(pair, "dd", { "data-counter": name });
    });
    this.clear();
  }

  clear() {
    this.#marks = [];
    this.#exchanges.clear();
    this.#numbers.clear();
    this.#isConcurrent = false;
    this.#since = { ...this.machine.traffic };
    this.#draw();
  }

  // What the machine reports

  open({ connection }) {
    this.#numbers.set(connection, this.#numbers.size);
    if (this.machine.connections.length > 1) this.#isConcurrent = true;
    this.#draw();
  }

  message(detail) {
    const { connection, from, kind, passage } = detail;
    const mark = { connection, from, passage, text: words(detail).slice(0, WIDEST) };
    const exchange = this.#exchanges.get(connection);
    if (kind === "request") this.#exchanges.set(connection, { request: mark });
    else if (exchange && from === "server" && !exchange.response) {
      exchange.response = mark;
      mark.request = exchange.request;
      const lasts = detail.status === 101 || detail.data === undefined;
      if (!lasts) this.#exchanges.delete(connection);
    }
    this.#add(mark);
  }

  close({ connection, by }) {
    const exchange = this.#exchanges.get(connection);
    this.#exchanges.delete(connection);
    if (exchange && !exchange.response) exchange.request.ended = performance.now();
    if (by === "network") this.#note("client", "cut", connection);
    else if (by === "server") this.#note("server", "closed", connection);
    else if (exchange) this.#note("client", by === "client" ? "closed" : "lost", connection);
  }

  started() {
    if (this.#marks.length) this.#add({ starts: "server", at: performance.now(), text: "restarted" });
  }

  ended(text) {
    this.#add({ crosses: "server", at: performance.now(), text });
  }

  #note(lane, text, connection) {
    this.#add({ lane, connection, at: performance.now(), text });
  }

  #add(mark) {
    this.#marks.push(mark);
    this.#draw();
  }

  // The drawing

  /** Draws soon; again and again while something is on its way or held. */
  #draw() {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const trace = this.#trace();
      const count = (from) => trace.messages.filter((each) => each.from === from).length;
      this.diagram.draw(trace, this.#marks.length
        ? `The newest messages: ${count("client")} of the client, ${count("server")} of the server.`
        : "No messages yet.");
      this.#count();
      if (this.machine.waiting.size || this.#exchanges.size) this.#draw();
    }, FRAME);
  }

  #count() {
    const { traffic, connections } = this.machine;
    for (const shown of this.counters) {
      const { counter } = shown.dataset;
      const value = counter === "open" ? connections.length : traffic[counter] - this.#since[counter];
      shown.textContent = numbered(value);
    }
  }

  #name({ connection, text }) {
    if (!this.#isConcurrent || !connection) return text;
    return `${NUMBERS[this.#numbers.get(connection) % NUMBERS.length] ?? ""} ${text}`;
  }

  #trace() {
    const now = performance.now();
    const marks = this.#marks.slice(-SHOWN);
    const at = (mark) => mark.passage?.at ?? mark.at;
    const place = timeline([...marks.map(at), ...marks.map((each) => each.passage?.arrives ?? now), now]);
    const trace = { lanes: ["client", "server"], messages: [], bars: [], notes: [], crosses: [], starts: [] };
    const positions = new Map();
    for (const mark of marks.toSorted((one, other) => at(one) - at(other))) {
      const text = this.#name(mark);
      const when = place(at(mark));
      if (mark.crosses) trace.crosses.push({ lane: mark.crosses, at: when, text });
      else if (mark.starts) trace.starts.push({ lane: mark.starts, at: when, text });
      else if (mark.lane) trace.notes.push({ lane: mark.lane, at: when, text });
      else {
        const { from, passage, request } = mark;
        const message = { at: when, from, to: from === "client" ? "server" : "client", text };
        const way = ((passage.arrives ?? now) - passage.at) / 1000;
        if (passage.lost) message.lost = true;
        else if (way >= AT_ONCE) message.arrives = place(passage.arrives ?? now);
        positions.set(mark, trace.messages.push(message) - 1);
        const took = request && (passage.at - (request.passage.arrives ?? passage.at)) / 1000;
        if (took >= AT_ONCE) {
          message.text += `, ${took.toFixed(1)} s`;
          if (positions.has(request))
            trace.bars.push({ kind: "held", messages: [positions.get(request), positions.get(mark)] });
        }
      }
    }
    for (const mark of positions.keys()) {
      const isOpen = [...this.#exchanges.values()].some(({ request, response }) => request === mark && !response);
      if (!isOpen && !mark.ended) continue;
      const end = mark.ended ?? now;
      if ((end - mark.passage.at) / 1000 >= AT_ONCE)
        trace.bars.push({ kind: "held", messages: [positions.get(mark)], end: place(end) });
    }
    trace.now = place(now);
    return trace;
  }
}

/** Returns a function from times in milliseconds to places in a diagram, in which long times
    without an event are shortened. */
function timeline(times) {
  const knots = [];
  for (const time of times.toSorted((one, other) => one - other)) {
    const before = knots.at(-1);
    const gap = before ? Math.min(LONGEST, (time - before.time) / 1000) : 0;
    knots.push({ time, place: (before?.place ?? 0) + gap });
  }
  return (time) => knots.findLast((each) => each.time <= time).place;
}
