// The panels. With a live server (`make serve`) a panel shows the very client.html that its page
// prints, in a frame, and draws each fetch as it happens. Elsewhere it replays the recorded run.
//
// A panel is <div class="panel" data-client="…" data-live="…" data-trace="…">: the client to show,
// the prefix under which its server is mounted, the recorded trace. What stands inside is there
// for readers without JavaScript and is replaced.

const root = new URL("..", import.meta.url);
const SECOND = 56; // pixels of a figure for one second
const TOP = 44;
const LEFT = 104;
const RIGHT = 256;
const FRAME = 150; // milliseconds between drawings: the client is to be watched, not slowed down

/** Draws who spoke when: client on the left, server on the right, time downwards. */
class Timeline {
  constructor(container) {
    this.container = container;
    this.svg = this.add(container, "svg", { class: "figure", role: "img" });
    this.title = this.add(this.svg, "title", {}, "Nothing has been asked yet.");
    this.clear();
  }

  add(parent, name, attributes = {}, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return parent.appendChild(element);
  }

  clear() {
    this.svg.replaceChildren(this.title);
    this.lives = [LEFT, RIGHT].map((x) =>
      this.add(this.svg, "line", { class: "life", x1: x, x2: x, y1: 30, y2: 30 }),
    );
    for (const [x, name] of [[LEFT, "client"], [RIGHT, "server"]])
      this.add(this.svg, "text", { class: "lane", x, y: 20, "text-anchor": "middle" }, name);
    this.ticks = 0;
    this.lowest = { client: -100, server: -100 };
    this.before = -100; // the question before the lowest
    this.answered = -100; // when an answer came last
    this.said = {}; // by each side: what was written last, and where
    this.written = -100; // where anything was
    this.bars = [];
    this.grow(1);
  }

  y(at) {
    return TOP + at * SECOND;
  }

  /** Makes room down to `at` seconds. */
  grow(at) {
    for (; this.ticks <= at; this.ticks += 1)
      this.add(
        this.svg,
        "text",
        { class: "tick", x: 10, y: this.y(this.ticks) + 4 },
        this.ticks ? `${this.ticks} s` : "0",
      );
    const height = this.y(at) + 60;
    this.svg.setAttribute("viewBox", `0 0 360 ${Math.round(height)}`);
    for (const life of this.lives) life.setAttribute("y2", height - 8);
    // What goes on still goes on: the job, a question that is held.
    for (const bar of this.bars) {
      const end = Math.min(at, bar.end ?? Infinity);
      bar.element.setAttribute("height", Math.max(0, end - bar.start) * SECOND);
    }
    this.container.scrollTop = this.container.scrollHeight;
  }

  /** Draws a bar from `start` to `end` seconds; without an end it grows until it is given one. */
  bar(css, lane, start, end) {
    const x = (lane === "client" ? LEFT : RIGHT) - 5;
    const element = this.add(this.svg, "rect", { class: css, x, y: this.y(start), width: 10, rx: 5 });
    const bar = { element, start, end };
    this.bars.push(bar);
    return bar;
  }

  /** Tints the room between the lanes from `start` seconds on, until the band is given an end. */
  hold(start) {
    const band = this.bar("held", "client", start);
    for (const [name, value] of [["x", LEFT], ["width", RIGHT - LEFT], ["rx", 0]])
      band.element.setAttribute(name, value);
    this.title.after(band.element); // behind all else
    return band;
  }

  /** Writes beside a lane. */
  note(lane, at, words, css = "") {
    const place = lane === "client" ? { x: LEFT - 10, "text-anchor": "end" } : { x: RIGHT + 12 };
    this.add(this.svg, "text", { class: `note ${css}`, y: this.y(at) + 4, ...place }, words);
  }

  /** Marks the time from the job's end until the client knew. */
  late(end, known) {
    if (known - end < 0.1) return; // the way of the answer
    this.bar("late", "client", end, known);
    this.note("client", (end + known) / 2, "late", "late");
  }

  arrow(at, from, words, apart = false) {
    const up = from === "client";
    // An answer that came at once is drawn just below its question, and so is a question that
    // followed an answer at once.
    let y = this.y(at);
    // Where questions follow each other closely there is less room for that.
    const dense = this.lowest.client - this.before < 40;
    if (!up) y = Math.max(y, this.lowest.client + (dense ? 3 : 20));
    else if (at - this.answered < 0.05) y = Math.max(y, this.lowest.server + 20);
    // Where anyone may speak at any time, each is drawn below the one before.
    if (apart) y = Math.max(y, this.lowest.client + 20, this.lowest.server + 20);
    if (up) this.before = this.lowest.client;
    else this.answered = at;
    this.grow(Math.max(at, (y - TOP) / SECOND));
    const [x1, x2] = up ? [LEFT, RIGHT] : [RIGHT, LEFT];
    const head = up ? 7 : -7;
    const css = up ? "up" : "down";
    this.add(this.svg, "line", { class: css, x1, y1: y, x2: x2 - head, y2: y + 5 });
    const points = `${x2},${y + 5} ${x2 - head},${y + 1} ${x2 - head},${y + 9}`;
    this.add(this.svg, "polygon", { class: css, points });
    this.lowest[from] = y;
    // Written where there is room, and always when it says something new.
    const said = this.said[from];
    const crowded = y - (said?.y ?? -100) < 36 || y - this.written < 14;
    if (said?.words === words && crowded) return;
    this.said[from] = { words, y };
    this.written = y;
    const place = { x: (LEFT + RIGHT) / 2, y: y - 2, "text-anchor": "middle" };
    this.add(this.svg, "text", { class: css, ...place }, words);
  }

  describe(text) {
    this.title.textContent = text;
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

function wireOf(panel) {
  const wire = element(panel, "div", {
    class: "panel-wire",
    tabindex: "0",
    role: "region",
    "aria-label": "Who said what, when",
  });
  return new Timeline(wire);
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

/**
 * Draws what an EventSource in the frame asks and is told. `wire` does the drawing: asked(path)
 * returns a question that is open, told(words) draws what the server says, over(question) ends it.
 */
function watchEventSource(inside, wire) {
  inside.EventSource = class extends inside.EventSource {
    #types = new Set(["open", "error"]);
    #question;

    constructor(url, options) {
      super(url, options);
      const ask = () => (this.#question ??= wire.asked(new URL(this.url).pathname));
      ask();
      super.addEventListener("open", ask); // again, if the browser came back by itself
      super.addEventListener("error", () => this.#over());
    }

    addEventListener(type, ...rest) {
      if (!this.#types.has(type)) {
        this.#types.add(type);
        super.addEventListener(type, () => wire.told(`event: ${type}`));
      }
      super.addEventListener(type, ...rest);
    }

    close() {
      super.close();
      this.#over();
    }

    #over() {
      if (this.#question) wire.over(this.#question);
      this.#question = undefined;
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

/** The real client, and what it says and hears, drawn as it happens. */
function live(panel) {
  const frame = clientOf(panel);
  const timeline = wireOf(panel);
  let start; // of the first request, in milliseconds
  let spoken = 0;
  let pending = 0;
  let job;
  let drawing;

  const now = () => (performance.now() - start) / 1000;

  function draw() {
    clearTimeout(drawing);
    timeline.grow(now());
    if (pending > 0 || (job && now() < job.end + 1)) drawing = setTimeout(draw, FRAME);
  }

  frame.addEventListener("load", () => {
    const inside = frame.contentWindow;
    const real = inside.fetch;
    inside.fetch = async (resource, options = {}) => {
      const method = options.method ?? "GET";
      const { pathname } = new URL(resource.url ?? resource, inside.location);
      if (method === "POST") {
        // A new job: a new drawing.
        timeline.clear();
        start = performance.now();
        spoken = 0;
        job = undefined;
      }
      start ??= performance.now();
      spoken += 1;
      pending += 1;
      const open = timeline.hold(now());
      timeline.arrow(now(), "client", `${method} ${short(pathname)}`);
      draw();
      try {
        const answer = await real.call(inside, resource, options);
        const body = await answer.clone().json().catch(() => ({}));
        const status = typeof body.status === "string" ? body.status : "";
        if (method === "POST" && answer.ok) {
          const { seconds } = JSON.parse(options.body);
          job = timeline.bar("job", "server", now(), now() + seconds);
          timeline.note("server", job.start + seconds / 2, "the job");
          timeline.note("server", job.end, "done");
        }
        if (status === "done" && job && !job.known) {
          job.known = now();
          timeline.late(job.end, job.known);
        }
        timeline.arrow(now(), "server", `${answer.status} ${status}`.trim());
        return answer;
      } finally {
        open.end = now();
        pending -= 1;
        timeline.describe(`${spoken} requests so far, each drawn with its answer.`);
        draw();
      }
    };

    watchEventSource(inside, {
      asked(path) {
        start ??= performance.now();
        spoken += 1;
        pending += 1;
        const open = timeline.hold(now());
        timeline.arrow(now(), "client", `GET ${short(path)}`);
        draw();
        return open;
      },
      told(words) {
        if (words.endsWith("done") && job && !job.known) job.known = now();
        timeline.arrow(now(), "server", words);
      },
      over(open) {
        open.end = now();
        pending -= 1;
        timeline.describe(`${spoken} requests so far, each drawn with what it was answered.`);
        draw();
      },
    });

    // The same for a WebSocket: the upgrade, and each message.
    inside.WebSocket = class extends inside.WebSocket {
      constructor(...where) {
        super(...where);
        timeline.clear();
        start = performance.now();
        spoken = 0;
        job = undefined;
        this.said("client", "GET, upgrade");
        this.addEventListener("open", () => this.said("server", "101"));
        this.addEventListener("message", ({ data }) => this.heard(data));
        this.addEventListener("close", ({ code }) => {
          timeline.note("client", now(), `closed ${code}`);
          draw();
        });
      }

      said(from, words) {
        timeline.arrow(now(), from, words, true);
        spoken += 1;
        timeline.describe(`${spoken} messages so far.`);
        draw();
      }

      send(data) {
        super.send(data);
        const { submit } = JSON.parse(data);
        this.said("client", brief(data, "client"));
        if (!submit) return;
        job = timeline.bar("job", "server", now(), now() + submit.seconds);
        timeline.note("server", job.end, "done");
        draw();
      }

      heard(data) {
        // What is pushed comes at the end of the job, whatever the clocks say.
        if (!("id" in JSON.parse(data)) && job) job.end = Math.min(job.end, now());
        this.said("server", brief(data, "server"));
      }
    };
  });
}

/** The recorded run, drawn again as slowly as it went. */
async function replay(panel) {
  const trace = await (await fetch(new URL(`snippets/${panel.dataset.trace}`, root))).json();
  frameOf(
    panel,
    "replay",
    "A recorded run, its times rounded down. To talk to a real server, run make serve.",
  );
  const { start: begun, end: done } = trace.bars.find(({ kind }) => kind === "job");
  const button = element(panel, "button", { type: "button" }, "Play");
  const count = element(panel, "output");
  const timeline = wireOf(panel);
  let playing = 0;

  button.addEventListener("click", () => {
    const turn = (playing += 1); // a second click starts anew
    const left = trace.messages.toSorted((a, b) => a.at - b.at);
    const last = left.at(-1).at;
    const start = performance.now();
    let spoken = 0;
    const open = {}; // questions, by connection
    timeline.clear();
    timeline.bar("job", "server", begun, done);
    timeline.note("server", done / 2, "job");
    timeline.note("server", done, "done");
    panel.dataset.done = "no";

    (function draw() {
      if (turn !== playing) return;
      const now = Math.min((performance.now() - start) / 1000, last + 0.5);
      timeline.grow(now);
      while (left.length && left[0].at <= now) {
        const { at, from, text, connection, more } = left.shift();
        if (!more) {
          // A stream that goes on stays open.
          if (open[connection]) open[connection].end = at;
          open[connection] = from === "client" ? timeline.hold(at) : undefined;
        }
        timeline.arrow(at, from, short(text), "sent" in panel.dataset);
        if (text.endsWith(" done")) timeline.late(done, at);
        spoken += from === "client";
        count.textContent = `${spoken} ${panel.dataset.sent ?? "requests"}`;
      }
      if (now < last + 0.5) return setTimeout(draw, FRAME);
      timeline.describe(`${spoken} requests and their answers, as recorded.`);
      panel.dataset.done = "yes";
    })();
  });
}

/** A client that shows all there is by itself: nothing to draw, and nothing to replay. */
function alone(panel, isLive) {
  if (isLive) clientOf(panel); // or else what stands inside says what is missing
}

const panels = document.querySelectorAll(".panel");
if (panels.length) {
  // Both kinds of server have this file, and say different things in it.
  const answer = await fetch(new URL("assets/live.json", root));
  const { live: isLive } = await answer.json();
  for (const panel of panels)
    if (panel.dataset.trace) (isLive ? live : replay)(panel);
    else alone(panel, isLive);
}
