// The printed server, run in this page, and the network to it, which the reader can disturb.

import { mount, parameters, watch, watchStop } from "./client.js";
import { build } from "./live.js";
import { address, button, element, load, root } from "./shared.js";

const BASE = new URL("http://127.0.0.1:8000"); // where the clients expect their server
const SIGTERM = 15;
const LACKING =
  "This browser cannot run the server in the page: its WebAssembly lacks JavaScript Promise " +
  "Integration, which Chromium and Firefox have.";

let machine; // one for all panels of a page; it runs one program at a time

class InPage {
  #printed = "";
  #decoder = new TextDecoder();

  constructor(panel) {
    this.panel = panel;
    const since = { connections: 0, up: 0, down: 0 };
    const counts = () => {
      if (!machine) return {};
      const { connections, up, down } = machine.traffic;
      return {
        "Bytes sent": up - since.up,
        "Bytes received": down - since.down,
        "New connections": connections - since.connections,
      };
    };
    Object.assign(this, build(panel, counts));
    this.run.isOurs = true;
    this.run.addEventListener("clear", () => Object.assign(since, machine?.traffic));
  }

  /** Asks before it loads the runtime, where the reader has not chosen this source. */
  ask() {
    const start = button(this.side, "Start the server", () => {
      start.remove();
      this.start();
    }, { class: "panel-play" });
    this.panel.say("Loads CPython for this page: 9 MB, once.");
  }

  async start() {
    if (!("Suspending" in WebAssembly)) {
      element(this.side, "p", {}, LACKING);
      return;
    }
    this.panel.say("Loading CPython: 9 MB, once.");
    try {
      const { Machine, exchange, patch } = await import("../runtime/network.js");
      Object.assign(this, { exchange, patch });
      machine ??= new Machine(new URL("assets/runtime/worker.js", root));
      await Promise.all([machine.ready, this.readFiles()]);
    } catch (error) {
      this.panel.say(`The server cannot start: ${error.message}`);
      return;
    }
    if (this.isClosed) return;
    this.listen();
    this.buildFaults();
    this.serve();
  }

  async readFiles() {
    const { server } = this.panel.data;
    const programs = JSON.parse(await load("assets/programs.json"));
    const [folder, name] = server.split("/");
    const names = [name, ...programs[server].beside];
    const texts = await Promise.all(names.map((each) => load(`examples/${folder}/${each}`)));
    this.folder = `/home/${folder}-panel`;
    this.name = name;
    this.files = Object.fromEntries(names.map((each, at) => [each, texts[at]]));
  }

  listen() {
    this.controller = new AbortController();
    const { signal } = this.controller;
    const on = (type, action) =>
      machine.addEventListener(type, ({ detail }) => action.call(this, detail), { signal });
    on("output", ({ bytes }) => (this.#printed += this.#decoder.decode(bytes, { stream: true })));
    on("listening", this.listening);
    on("exit", this.ended);
  }

  // The server

  serve() {
    this.#printed = "";
    this.setState("starting", `Starting ${this.name}`);
    const environment = Object.fromEntries(new URLSearchParams(this.panel.data.environment));
    this.number = machine.run({
      folder: this.folder, name: this.name, files: this.files, environment,
    });
  }

  async listening({ port }) {
    this.setState("running", `${this.name} runs in this page.`);
    if (this.port) {
      this.run.serverStarts("starts");
      return;
    }
    this.port = port;
    this.query = parameters(this.panel, this.side, () => this.showClient());
    if (this.panel.data.publish) this.buildPublisher();
    // What an earlier server has sent is of no use to the clients of a new one.
    for (const key of Object.keys(localStorage))
      if (key.includes(BASE.host)) localStorage.removeItem(key);
    await this.showClient();
  }

  async showClient() {
    machine.cut(); // the connections of a client that was here before
    const inside = await mount(this.side, {
      client: this.panel.data.client,
      query: this.query(),
      prepare: (window) => {
        this.patch(window, machine, BASE, this.port);
        watch(window, this.run);
      },
    });
    watchStop(inside, this.run);
  }

  /** Offers to publish a text, as another client of the server. */
  buildPublisher() {
    const publisher = { idle: [], traffic: {}, connect: (port) => machine.connect(port, true) };
    const form = element(this.side, "form", { class: "panel-bar" });
    const label = element(form, "label", { class: "panel-publish" }, "Text ");
    const input = element(label, "input", { value: "hello", required: "", maxlength: 60 });
    element(form, "button", {}, "Publish");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const body = new TextEncoder().encode(JSON.stringify({ text: input.value }));
      const headers = [["Content-Type", "application/json"]];
      try {
        const { head, done } = await this.exchange(publisher, this.port, this.panel.data.publish, {
          method: "POST", headers, body,
        });
        done(false);
        this.run.note("server", head.status === 201 ? "publish" : String(head.status));
      } catch {
        this.panel.say("Not published: the server does not respond.");
      }
    });
  }

  ended({ number, status }) {
    if (number !== this.number || this.state === "ended") return;
    const last = this.#printed.trim().split("\n").at(-1);
    const words = {
      killing: ["killed", "The server was killed."],
      stopping: ["ended", `The server drained, and ended with status ${status}.`],
    }[this.state] ?? ["ended", `The server ended with status ${status}: ${last}`];
    this.run.serverEnds(words[0]);
    this.setState("ended", words[1]);
  }

  stop() {
    this.setState("stopping", "SIGTERM: the server responds to what it holds, and ends.");
    this.run.note("server", "drains");
    machine.signal(SIGTERM);
  }

  kill() {
    this.setState("killing", "SIGKILL: the server ends at once.");
    machine.kill();
  }

  setState(state, text) {
    this.state = state;
    this.panel.say(text);
    this.buttons.stop.disabled = state !== "running";
    this.buttons.kill.disabled = !["running", "stopping"].includes(state);
    this.buttons.restart.disabled = state !== "ended";
  }

  // The network

  buildFaults() {
    const bar = element(this.panel.foot, "fieldset", { class: "panel-faults" });
    element(bar, "legend", {}, "Cut the wire");
    const label = element(bar, "label", { class: "panel-delay" });
    element(label, "span", {}, "Delay, each way");
    this.delay = element(label, "input", { type: "range", min: 0, max: 1000, step: 50 });
    const shown = element(label, "output");
    const show = () => {
      shown.textContent = `${this.delay.value} ms`;
      this.delay.setAttribute("aria-valuetext", shown.textContent);
      this.disturb();
    };
    this.delay.value = address.get("delay") ?? 0;
    this.delay.addEventListener("input", show);
    this.delay.addEventListener("change", () =>
      address.set("delay", this.delay.value === "0" ? undefined : this.delay.value));

    const add = (name, title, action) =>
      button(bar, name, action.bind(this), { title });
    this.buttons = {
      freeze: add("Freeze", "Nothing arrives, and neither side notices", this.freeze),
      cut: add("Cut", "Reset the connections", this.cut),
      stop: add("Stop server", "Send SIGTERM: the server drains and ends", this.stop),
      kill: add("Kill server", "End the server at once, as SIGKILL does", this.kill),
      restart: add("Restart server", "Start the server again", this.serve),
    };
    this.buttons.freeze.setAttribute("aria-pressed", "false");
    show();
  }

  disturb() {
    const delay = Number(this.delay.value);
    this.run.delay = delay / 1000;
    machine.disturb({ delay, isFrozen: this.run.isFrozen });
  }

  freeze() {
    const isFrozen = (this.run.isFrozen = !this.run.isFrozen);
    this.buttons.freeze.setAttribute("aria-pressed", String(isFrozen));
    this.run.note("server", isFrozen ? "frozen" : "thawed");
    this.disturb();
  }

  cut() {
    this.run.note("server", "cut");
    machine.cut();
  }

  close() {
    this.isClosed = true;
    this.run.close();
    this.controller?.abort();
    machine?.disturb({});
    if (this.number) machine.kill();
  }
}

export function open(panel, isChosen) {
  const shown = new InPage(panel);
  if (isChosen) shown.start();
  else shown.ask();
  return shown;
}
