// A recorded run: whole at first, then played as slowly as it went.

import { direction, until } from "../sequence.js";
import { Diagram } from "./diagram.js";
import { address, button, element, inSeconds } from "./shared.js";

const FRAME = 100; // milliseconds between drawings
const ROW = 0.5; // seconds for a row of a trace that has no times
const SPEEDS = { "½×": 0.5, "1×": 1, "2×": 2 };
const isCalm = matchMedia("(prefers-reduced-motion: reduce)");

class Recording {
  #timer;
  #at; // how far it has been played, in the unit of the trace

  constructor(panel) {
    this.panel = panel;
    this.trace = panel.recording;
    const { messages, bars = [], notes = [], crosses = [], starts = [] } = this.trace;
    const moments = [...messages, ...notes, ...crosses, ...starts].map(({ at }) => at);
    const ends = bars.flatMap(({ start = 0, end = 0 }) => [start, end]);
    this.moments = [...new Set([...moments, ...ends])].sort((one, other) => one - other);
    this.end = this.moments.at(-1);
    this.isTimed = "unit" in this.trace;
    this.build();
    this.seek(this.end);
    this.height = this.diagram.height;
  }

  build() {
    const side = element(this.panel.body, "div", { class: "panel-side" });
    const bar = element(side, "div", { class: "panel-bar" });
    this.play = button(bar, "Play", () => this.toggle(), { class: "panel-play" });
    const speeds = element(bar, "div", {
      class: "panel-choice", role: "group", "aria-label": "Speed",
    });
    this.speeds = Object.entries(SPEEDS).map(([text, speed]) =>
      button(speeds, text, () => this.setSpeed(speed), { "data-speed": speed }),
    );
    this.setSpeed(Number(address.get("speed")) || 1, true);
    const label = element(side, "label", { class: "panel-scrubber" });
    element(label, "span", {}, this.isTimed ? "Time" : "Step");
    this.scrubber = element(label, "input", {
      type: "range", min: 0, max: this.end, step: this.isTimed ? 0.1 : 1,
    });
    this.clock = element(label, "output");
    this.scrubber.addEventListener("input", () => {
      this.pause();
      this.seek(Number(this.scrubber.value));
    });
    this.log = element(side, "ol", {
      class: "panel-log", tabindex: "0", "aria-label": "Messages so far",
    });
    this.diagram = new Diagram(this.panel.body);
  }

  setSpeed(speed, isFirst = false) {
    this.speed = Object.values(SPEEDS).includes(speed) ? speed : 1;
    for (const each of this.speeds)
      each.setAttribute("aria-pressed", String(Number(each.dataset.speed) === this.speed));
    if (!isFirst) address.set("speed", this.speed === 1 ? undefined : this.speed);
  }

  /** Shows the run as it was at a time. */
  seek(at) {
    this.#at = Math.min(at, this.end);
    const isOver = at >= this.end;
    const soFar = isOver ? this.trace : until(this.trace, at);
    this.scrubber.value = this.#at;
    const clock = this.isTimed
      ? `${inSeconds(this.#at)} of ${inSeconds(this.end)}`
      : `${Math.floor(this.#at)} of ${this.end}`;
    this.clock.textContent = clock;
    this.scrubber.setAttribute("aria-valuetext", clock);
    const shown = soFar.messages.length;
    this.diagram.draw(soFar, `The recorded run so far: ${shown} messages.`, this.height);
    this.list(soFar.messages);
    this.count(soFar);
    this.panel.place.dataset.done = isOver ? "yes" : "no";
  }

  list(messages) {
    while (this.log.children.length > messages.length) this.log.lastChild.remove();
    for (const message of messages.slice(this.log.children.length)) {
      const css = direction(message, this.trace.lanes);
      const line = element(this.log, "li", { class: message.lost ? "lost" : css });
      if (this.isTimed) element(line, "span", { class: "panel-at" }, inSeconds(message.at));
      line.append(message.text);
      const ends = ` from ${message.from} to ${message.to}${message.lost ? ", lost" : ""}`;
      element(line, "span", { class: "panel-unseen" }, ends);
    }
    this.log.scrollTop = this.log.scrollHeight;
  }

  count({ messages }) {
    const all = this.trace.messages;
    const isSent = (each) => direction(each, this.trace.lanes) === "up";
    const values = { [this.panel.sent]: messages.filter(isSent).length };
    if (all.every(({ bytes }) => bytes)) {
      const sum = (list) => list.reduce((total, { bytes }) => total + bytes, 0);
      values["Bytes sent"] = sum(messages.filter(isSent));
      values["Bytes received"] = sum(messages.filter((each) => !isSent(each)));
      values.Connections = new Set(messages.map(({ connection }) => connection)).size;
    }
    const bars = this.trace.bars ?? [];
    const late = bars.find(({ kind }) => kind === "late");
    const job = bars.find(({ kind }) => kind === "job");
    if (late) {
      const soFar = Math.min(Math.max(0, this.#at - late.start), late.end - late.start);
      values["Known late by"] = inSeconds(soFar);
    } else if (job && all.at(-1).at === job.end) values["Known late by"] = inSeconds(0);
    this.panel.count(values);
  }

  toggle() {
    if (this.#timer) this.pause();
    else {
      if (this.#at >= this.end) this.seek(0);
      this.play.textContent = "Pause";
      this.before = performance.now();
      this.next();
    }
  }

  pause() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.play.textContent = "Play";
  }

  next() {
    const unit = (this.isTimed ? 1 : 1 / ROW) * this.speed; // of the trace in a second
    let wait = FRAME;
    if (isCalm.matches) {
      // Drawn when something happens, and still in between.
      const then = this.moments.find((moment) => moment > this.#at) ?? this.end;
      wait = ((then - this.#at) / unit) * 1000;
    }
    this.#timer = setTimeout(() => {
      const now = performance.now();
      this.seek(this.#at + ((now - this.before) / 1000) * unit);
      this.before = now;
      if (this.#at >= this.end) this.pause();
      else this.next();
    }, wait);
  }

  close() {
    this.pause();
  }
}

export function open(panel) {
  return new Recording(panel);
}
