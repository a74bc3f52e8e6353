// The panel below a program that runs in the page: output, controls, an editor, requests, and the
// browser client of the page. One worker serves all panels of a page, and runs one program at a
// time.

import { Editor } from "./editor.js";
import { mount } from "./panel/client.js";
import { element, load, root } from "./panel/shared.js";
import { exchange, Machine, patch, readText } from "./runtime/network.js";
import { openSocket, reproduce } from "./reproduce.js";
import { Wire } from "./wire.js";

const CLIENT_BASE = new URL("http://127.0.0.1:8000"); // where the clients expect their server
const SIGTERM = 15;
const NETWORKS = {
  "as it is": {},
  "200 ms each way": { delay: 200 },
  "1 s each way": { delay: 1000 },
  "frozen": { isFrozen: true },
};
const PATIENCE = 1000; // milliseconds until a program that does not end is ended with its worker

let machine; // started by the first panel
let owner; // the panel whose program runs

function start() {
  machine = new Machine(new URL("assets/runtime/worker.js", root));
  for (const type of ["output", "listening", "exit"])
    machine.addEventListener(type, ({ detail }) => owner?.[type](detail));
  for (const type of ["open", "message", "close"])
    machine.addEventListener(type, ({ detail }) => owner?.wire[type](detail));
}

/** Ends the program that runs, if any, as SIGKILL does. */
async function killCurrent() {
  if (!owner?.isRunning) return;
  const ended = new Promise((resolve) => machine.addEventListener("exit", resolve, { once: true }));
  machine.kill();
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE, "late"));
  if ((await Promise.race([ended, late])) === "late") {
    machine.restart();
    owner.exit({ number: owner.number, status: 137 });
  }
}

/** Returns the routes that a program declares: [{method, path}]. */
function routesOf(text) {
  const found = text.matchAll(/@\w+\.(get|post|put|patch|delete|websocket)\(\s*"([^"]*)"/g);
  return Array.from(found, ([, method, path]) => ({
    method: method === "websocket" ? "WebSocket" : method.toUpperCase(),
    path: path.replace(/<(\w+)[^>]*>/g, "{$1}") || "/",
  }));
}

class Runner {
  #decoder;
  #printed = "";
  #port;
  #exchange; // of the request that is open: {cancel, send}

  constructor(run) {
    this.program = run;
    [this.topic, this.name] = run.split("/");
    this.key = `program ${run}`;
    this.isRunning = false;

    this.section = document.createElement("section");
    this.section.className = "runner";
    this.section.setAttribute("aria-label", `${this.name} in this page`);
  }

  /** Puts the panel below a block of the page that shows the program, or a part of it. */
  place(block, button) {
    this.button?.setAttribute("aria-expanded", "false");
    [this.block, this.button] = [block, button];
    block.after(this.section);
    if (this.#port && this.client) this.showClient(); // a frame that moves is emptied
    this.showPanel(true);
  }

  showPanel(isShown) {
    this.section.hidden = !isShown;
    this.button.setAttribute("aria-expanded", String(isShown));
  }

  async open() {
    if (!("Suspending" in WebAssembly)) {
      element(this.section, "p", {},
        "This browser cannot run the server in the page: its WebAssembly lacks JavaScript Promise " +
        "Integration, which Chromium and Firefox have.");
      this.section.scrollIntoView({ block: "nearest" });
      return;
    }
    try {
      const programs = JSON.parse(await load("assets/programs.json"));
      const { beside, client, try: commands } = programs[this.program];
      this.client = client;
      this.environment = commands?.find(({ kind }) => kind === "start")?.environment;
      this.commands = commands;
      this.isToReproduce = Boolean(commands);
      const names = [this.name, ...beside];
      const texts = await Promise.all(names.map((name) => load(`examples/${this.topic}/${name}`)));
      this.files = Object.fromEntries(names.map((name, at) => [name, texts[at]]));
      this.original = this.files[this.name].replace(/^ *# --8<-- .*\n/gm, "");
      if (!machine) start();
      this.build();
      this.section.scrollIntoView({ block: "start" });
      await this.run();
    } catch (error) {
      element(this.section, "p", { class: "runner-error", role: "alert" }, String(error.message));
    }
  }

  build() {
    const bar = element(this.section, "div", { class: "runner-bar" });
    this.state = element(bar, "strong", { role: "status" });
    const button = (text, title, action) => {
      const made = element(bar, "button", { type: "button", title }, text);
      made.addEventListener("click", () => action.call(this));
      return made;
    };
    this.buttons = {
      run: button("Run", "Run the program", this.run),
      stop: button("Stop", "Send SIGTERM: the server drains and ends", this.stop),
      kill: button("Kill", "End the server at once, as SIGKILL does", this.kill),
      edit: button("Edit", "Show the program in an editor", this.edit),
      reset: button("Reset", "Restore the program of the page", this.reset),
    };
    this.buttons.edit.setAttribute("aria-expanded", "false");
    if (this.commands)
      this.buttons.reproduce = button("Reproduce", "Send the requests that fail", this.reproduce);
    const text = sessionStorage.getItem(this.key) ?? this.original;
    this.editor = new Editor(this.section, `The text of ${this.name}`, text, () => this.run());
    this.editor.onInput(() => this.keep());
    this.error = element(this.section, "p", { class: "runner-error", role: "alert", hidden: "" });
    this.log = element(this.section, "pre", {
      class: "runner-output", tabindex: "0", role: "log", "aria-label": "Output of the server",
    });
    this.buildNetwork();
    this.buildRequest();
    if (this.client) this.buildClient();
    this.keep();
  }

  /** Keeps an edited program for the visit. */
  keep() {
    const edited = this.editor.value !== this.original;
    if (edited) sessionStorage.setItem(this.key, this.editor.value);
    else sessionStorage.removeItem(this.key);
    this.buttons.reset.hidden = !edited;
  }

  show(state, text) {
    this.section.dataset.state = state;
    this.state.textContent = text;
    this.isRunning = state === "starting" || state === "running" || state === "stopping";
    this.buttons.run.textContent = this.isRunning ? "Restart" : "Run";
    this.buttons.run.disabled = state === "loading";
    this.buttons.stop.disabled = state !== "running";
    this.buttons.kill.disabled = !this.isRunning;
    if (this.commands) this.buttons.reproduce.disabled = state !== "running";
    this.sendButton.disabled = !(state === "running" || state === "stopping");
  }

  async run() {
    if (owner === this) await killCurrent();
    this.isToReproduce ||= Boolean(this.commands); // of the program as it now is
    this.show("loading", "Loading the runtime: 9 MB, once");
    await machine.ready;
    await killCurrent(); // of another panel
    if (owner !== this) this.wire.clear();
    owner = this;
    this.disturb();
    this.#decoder = new TextDecoder();
    this.#printed = this.log.textContent = "";
    this.error.hidden = true;
    this.editor.mark();
    this.files[this.name] = this.editor.value;
    this.show("starting", "Starting");
    this.number = machine.run({
      folder: `/home/${this.topic}`, name: this.name, files: this.files,
      environment: this.environment,
    });
  }

  stop() {
    this.show("stopping", "Stopping");
    machine.signal(SIGTERM);
  }

  kill() {
    return killCurrent();
  }

  edit() {
    const { part } = this.editor;
    part.hidden = !part.hidden;
    this.buttons.edit.setAttribute("aria-expanded", String(!part.hidden));
    if (part.hidden) return;
    // Where the page shows a part of the program, the editor begins there.
    const [first] = this.block.querySelector("code")?.textContent.trim().split("\n") ?? [];
    const line = this.editor.value.split("\n").findIndex((each) => each.trim() === first);
    this.editor.goTo(Math.max(line, 0) + 1);
  }

  reset() {
    this.editor.value = this.original;
    this.editor.mark();
    this.buttons.run.focus();
  }

  // What the worker reports

  output({ bytes }) {
    const text = this.#decoder.decode(bytes, { stream: true });
    this.#printed += text;
    this.log.append(text);
    this.log.scrollTop = this.log.scrollHeight;
    this.showError();
  }

  listening({ port }) {
    const isFirst = !this.#port;
    this.#port = port;
    this.show("running", `Listening on port ${port}`);
    this.wire.started();
    if (this.isToReproduce) this.reproduce();
    if (this.client && isFirst) this.showClient();
  }

  exit({ number, status }) {
    if (number !== this.number || !this.isRunning) return;
    this.showError();
    this.wire.ended(status === 137 ? "killed" : `exit ${status}`);
    this.show("ended", status === 137 ? "Killed" : `Exited with status ${status}`);
  }

  /** Shows the last exception that the program printed, with its line. */
  showError() {
    const pattern = new RegExp(`File "[^"]*/${this.name}", line (\\d+)`, "g");
    const line = [...this.#printed.matchAll(pattern)].at(-1)?.[1];
    const message = [...this.#printed.matchAll(/^(?:\w+\.)*\w*(?:Error|Exception)\b.*$/gm)].at(-1)?.[0];
    if (!line || !message || !this.error.hidden) return;
    this.error.textContent = "";
    const go = element(this.error, "button", { type: "button" }, `Line ${line}`);
    go.addEventListener("click", () => this.goTo(Number(line)));
    this.error.append(` ${message}`);
    this.error.hidden = false;
    this.editor.mark(line);
  }

  goTo(line) {
    if (this.editor.part.hidden) this.edit();
    this.editor.goTo(line, true);
  }

  // The network

  buildNetwork() {
    const part = element(this.section, "div", { class: "runner-network" });
    this.wire = new Wire(part, machine);
    const controls = element(part, "div", { class: "runner-controls" });
    const label = element(controls, "label", {}, "Network ");
    this.network = element(label, "select", { name: "network" });
    for (const name of Object.keys(NETWORKS)) element(this.network, "option", {}, name);
    this.network.addEventListener("change", () => owner === this && this.disturb());
    const title = "Reset all connections, for both sides";
    const cut = element(controls, "button", { type: "button", title }, "Cut connections");
    cut.addEventListener("click", () => owner === this && machine.cut());
  }

  disturb() {
    machine.disturb(NETWORKS[this.network.value]);
  }

  // Requests

  buildRequest() {
    const routes = routesOf(this.original);
    const form = (this.form = element(this.section, "form", { class: "runner-request" }));
    const field = (name, label, kind, attributes = {}) => {
      const wrapper = element(form, "label", { class: `runner-${name}` }, label);
      return element(wrapper, kind, { name, ...attributes });
    };
    this.method = field("method", "Method", "select");
    const methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "WebSocket"];
    for (const method of methods) element(this.method, "option", {}, method);
    const id = `paths-${this.topic}-${this.name.replace(/\W/g, "-")}`;
    this.path = field("path", "Path", "input", { list: id, spellcheck: "false", required: "" });
    const list = element(form, "datalist", { id });
    for (const path of new Set(routes.map((each) => each.path)))
      element(list, "option", { value: path });
    this.headers = field("headers", "Headers", "textarea", { rows: "1", title: "One a line" });
    this.body = field("body", "Body or message", "textarea", { rows: "1" });
    this.sendButton = element(form, "button", { type: "submit" }, "Send");
    this.cancelButton = element(form, "button", { type: "button", hidden: "" }, "Cancel");
    this.response = element(this.section, "pre", {
      class: "runner-response", tabindex: "0", role: "log", "aria-label": "Response", hidden: "",
    });

    const first = routes.find(({ method }) => method === "POST") ?? routes[0];
    this.method.value = first?.method ?? "GET";
    this.path.value = first?.path ?? "/";
    if (first?.path === "/jobs") this.body.value = '{"seconds": 3}';
    this.path.addEventListener("change", () => {
      const route = routes.find(({ path }) => path === this.path.value);
      if (route) this.method.value = route.method;
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.cancelButton.addEventListener("click", () => this.#exchange?.cancel());
  }

  /** Sends the requests by which the wrong program shows its failure. */
  async reproduce() {
    this.isToReproduce = false;
    this.buttons.reproduce.disabled = true;
    this.response.hidden = false;
    this.response.textContent = "";
    await reproduce(machine, this.#port, this.commands, (text) => this.print(text));
    this.buttons.reproduce.disabled = this.section.dataset.state !== "running";
  }

  async send() {
    if (this.#exchange?.send) return this.#exchange.send(this.body.value);
    this.#exchange?.cancel();
    this.response.hidden = false;
    this.response.textContent = "";
    this.cancelButton.hidden = false;
    const current = this.method.value === "WebSocket" ? this.converse() : this.request();
    this.#exchange = current;
    await current.ended;
    if (this.#exchange !== current) return;
    this.#exchange = undefined;
    this.cancelButton.hidden = true;
    this.sendButton.textContent = "Send";
  }

  print(text) {
    this.response.append(text);
    this.response.scrollTop = this.response.scrollHeight;
  }

  /** Sends a request and prints the response as it arrives. */
  request() {
    const controller = new AbortController();
    const { signal } = controller;
    const method = this.method.value;
    const body = this.body.value && !/GET|HEAD/.test(method) ? this.body.value : undefined;

    const receive = async () => {
      const headers = new Headers();
      for (const line of this.headers.value.split("\n").filter(Boolean)) {
        const [, name, value] = /^([^:]*):?(.*)$/.exec(line);
        headers.set(name.trim(), value.trim());
      }
      if (body && !headers.has("Content-Type")) headers.set("Content-Type", "application/json");
      const bytes = body && new TextEncoder().encode(body);
      const path = encodeURI(this.path.value);
      const exchanged = await exchange(machine, this.#port, path, {
        method, headers, body: bytes, signal,
      });
      const { head } = exchanged;
      this.print(`HTTP/1.1 ${head.status} ${head.statusText}\n`);
      for (const [name, value] of head.headers) this.print(`${name}: ${value}\n`);
      this.print("\n");
      for await (const piece of readText(exchanged, method)) this.print(piece);
      if (head.status === 202 && head.headers.has("location")) {
        // The next request is for the state of the job.
        this.method.value = "GET";
        this.path.value = head.headers.get("location");
      }
    };
    const ended = receive().catch((error) => {
      const cause = error.cause ?? error;
      this.print(signal.aborted ? "\nCancelled.\n" : `\n${cause.message}\n`);
    });
    return { ended, cancel: () => controller.abort() };
  }

  /** Opens a WebSocket connection and prints its messages. */
  converse() {
    const socket = openSocket(machine, this.#port, this.path.value);
    socket.onopen = () => this.print("Open.\n");
    socket.onmessage = ({ data }) => this.print(`← ${data}\n`);
    const ended = new Promise((resolve) => {
      socket.onclose = ({ code, reason }) => {
        this.print(`Closed with ${code} ${reason}\n`);
        resolve();
      };
    });
    this.sendButton.textContent = "Send message";
    return {
      ended,
      cancel: () => socket.close(1000),
      send: (text) => {
        if (socket.readyState !== 1) return;
        socket.send(text);
        this.print(`→ ${text}\n`);
      },
    };
  }

  // The client of the page

  buildClient() {
    const heading = element(this.section, "p", { class: "runner-client" }, "client.html ");
    const reload = element(heading, "button", { type: "button" }, "Reload");
    reload.addEventListener("click", () => this.showClient());
    this.clientPlace = element(this.section, "div", { class: "runner-frame" });
  }

  showClient() {
    mount(this.clientPlace, {
      client: this.client, prepare: (inside) => patch(inside, machine, CLIENT_BASE, this.#port),
    });
  }
}

const runners = new Map(); // by program

/** Opens the panel of a program below a block that shows it, or hides and shows it. */
export function toggle(block, button) {
  const { run } = block.dataset;
  let runner = runners.get(run);
  if (runner?.block === block) return runner.showPanel(runner.section.hidden);
  const isNew = !runner;
  if (isNew) runners.set(run, (runner = new Runner(run)));
  runner.place(block, button);
  if (isNew) return runner.open();
  runner.section.scrollIntoView({ block: "start" });
}
