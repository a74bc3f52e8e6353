// The trace of a run that goes on: what is sent, and what has become of it.

import { until } from "../sequence.js";

const LANES = ["client", "server"];
const SECOND = 56; // pixels of a figure for one second
const FRAME = 150; // milliseconds between drawings: the client is to be watched, not slowed down
const AT_ONCE = 0.1; // seconds: the way of a request and its response
const MOST = 200; // messages in a drawing

export class Run extends EventTarget {
  delay = 0; // seconds that a message is on its way
  isFrozen = false; // nothing arrives
  isDown = false; // the server does not run
  isOurs = false; // the server and the network are in this page

  constructor(diagram) {
    super();
    this.diagram = diagram;
    this.clear();
  }

  /** Begins anew: the next message is at 0. */
  clear() {
    this.empty();
    this.open = new Set(); // requests and connections that are not at their end
    this.job = this.done = this.known = this.stopped = undefined;
    this.sent = this.received = 0;
    this.dispatchEvent(new Event("clear"));
    this.draw();
  }

  empty() {
    this.start = undefined; // in milliseconds
    this.messages = [];
    this.requests = [];
    this.bars = [];
    this.notes = [];
    this.crosses = [];
    this.starts = [];
  }

  /** Goes on in a new drawing: this one is as long as a drawing may be. */
  turn() {
    const { job, done, now } = this;
    this.empty();
    if (!job) return;
    job.start -= now;
    job.end -= now;
    done.at -= now;
    this.bars.push(job);
    this.notes.push(done);
  }

  get now() {
    return (performance.now() - (this.start ??= performance.now())) / 1000;
  }

  /** How late the client knew of the end of the job, in seconds. */
  get late() {
    return this.known === undefined ? undefined : this.known - this.job.end;
  }

  /** Whether the client has all that it waits for, or has stopped to wait. */
  get isOver() {
    return !this.job || this.known !== undefined || this.stopped !== undefined;
  }

  /** Adds a message; returns it. */
  message(from, text) {
    if (this.messages.length >= MOST) this.turn();
    const { now, delay } = this;
    const to = from === "client" ? "server" : "client";
    const message = { at: now, from, to, text };
    if (from === "client") {
      this.sent += 1;
      this.revive();
      if (this.isFrozen || this.isDown) message.lost = true;
      else if (delay >= AT_ONCE) message.arrives = now + delay;
    } else {
      this.received += 1;
      if (delay >= AT_ONCE) {
        message.at = Math.max(0, now - delay);
        message.arrives = now;
      }
    }
    this.messages.push(message);
    this.draw();
    return message;
  }

  /** Marks a message of the client as one that did not arrive, as far as anybody can tell. */
  lose(message) {
    if (this.isOurs) return; // and so it has been marked where it did not
    message.lost = true;
    delete message.arrives;
    this.draw();
  }

  /** Adds a request that is open until it is given a response or an end. */
  request(text) {
    const request = { sent: this.message("client", text) };
    this.requests.push(request);
    this.open.add(request);
    return request;
  }

  respond(request, text) {
    if (!this.open.delete(request)) return; // of a drawing before this one
    request.response = this.message("server", text);
    this.draw();
  }

  /** Ends a request that gets no response, or whose response has ended. */
  end(request) {
    if (!this.open.delete(request)) return;
    request.end = this.now;
    this.draw();
  }

  note(lane, text, at = this.now) {
    const note = { at, lane, text };
    this.notes.push(note);
    this.draw();
    return note;
  }

  startJob(seconds) {
    const start = Math.max(0, this.now - this.delay);
    this.job = { kind: "job", lane: "server", start, end: start + seconds, text: "job" };
    this.bars.push(this.job);
    this.done = this.note("server", "done", this.job.end);
  }

  /** The client knows that the job is done. */
  jobKnown() {
    const { job, now } = this;
    if (!job || this.known !== undefined) return;
    this.known = now;
    job.end = this.done.at = Math.min(job.end, now);
    if (this.late >= AT_ONCE)
      this.bars.push({ kind: "late", lane: "client", start: job.end, end: now, text: "late" });
    this.draw();
  }

  /** The reader has stopped the client: nothing is known of what comes after. */
  stop() {
    if (this.isOver) return;
    this.crosses.push({ at: this.now, lane: "client", text: "stop" });
    this.stopped = this.now;
    this.draw();
  }

  /** The client goes on after it has been stopped. */
  revive() {
    if (this.stopped === undefined) return;
    this.starts.push({ at: this.now, lane: "client", text: "" });
    this.stopped = undefined;
  }

  /** The server has ended, and its jobs with it. */
  serverEnds(text) {
    const { job, now } = this;
    this.isDown = true;
    this.crosses.push({ at: now, lane: "server", text });
    if (job && job.end > now) {
      job.end = now;
      this.notes = this.notes.filter((note) => note !== this.done);
      this.job = this.done = undefined;
    }
    this.draw();
  }

  serverStarts(text) {
    this.isDown = false;
    this.starts.push({ at: this.now, lane: "server", text });
    this.draw();
  }

  /** Returns the trace as it is now, in the format of the drawer. */
  trace(now) {
    // What the server sent is known when it arrives, after what the client sent meanwhile.
    const messages = this.messages.toSorted((one, other) => one.at - other.at);
    const bars = [...this.bars];
    for (const { sent, response, end } of this.requests) {
      if ((response?.at ?? end ?? now) - sent.at < AT_ONCE) continue;
      const positions = [sent, response].filter(Boolean).map((each) => messages.indexOf(each));
      bars.push({ kind: "held", messages: positions, end });
    }
    const { notes, crosses, starts } = this;
    const trace = { lanes: LANES, unit: "s", scale: SECOND };
    return until({ ...trace, messages, bars, notes, crosses, starts }, now);
  }

  draw() {
    clearTimeout(this.timer);
    const now = this.stopped ?? (this.start === undefined ? 0 : this.now);
    const description = this.sent
      ? `Messages sent by the client: ${this.sent}, received: ${this.received}.`
      : "No messages yet.";
    this.diagram.draw(this.trace(now), description);
    this.dispatchEvent(new Event("draw"));
    const isGoing = this.open.size || now < (this.job?.end ?? -1) + 1;
    if (isGoing && this.stopped === undefined) this.timer = setTimeout(() => this.draw(), FRAME);
  }

  close() {
    clearTimeout(this.timer);
  }
}
