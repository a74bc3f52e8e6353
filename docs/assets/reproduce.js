// Carries out the commands by which a wrong program shows its failure: those in its first lines,
// which publish/runnable.py has read.

import { exchange, patch, readText } from "./runtime/network.js";

const SIGTERM = 15;
const SHOWN = 60; // characters of a message

/** Opens a WebSocket to the program that listens on a port. */
export function openSocket(machine, port, path) {
  const scope = { fetch, Request, Response, EventTarget, Event, MessageEvent, CloseEvent };
  Object.assign(scope, { DOMException, document, location, WebSocket });
  patch(scope, machine, new URL("http://127.0.0.1:8000"), port);
  return new scope.WebSocket(`ws://127.0.0.1:8000${path}`);
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Carries out commands with the program that listens on a port; prints each of them and what it
    prints, in the order in which they end. */
export async function reproduce(machine, port, commands, print) {
  const values = {}; // that the responses have for TOKEN and SESSION
  const jobs = []; // in the background
  const does = {
    start() {}, // it has been started
    sleep: ({ seconds }) => pause(seconds),
    stop: () => machine.signal(SIGTERM),
    signal({ signal, job }) {
      const { connection } = jobs[job - 1];
      if (signal === "STOP") connection.freeze();
      else connection.thaw();
    },
    curl: send,
    socket: converse,
  };

  for (const command of commands) {
    print(`$ ${command.text}\n`);
    const job = { command };
    // What is sent is reported at once.
    const note = ({ detail }) => (job.connection = detail.connection);
    machine.addEventListener("message", note);
    job.ended = does[command.kind](command);
    machine.removeEventListener("message", note);
    if (command.inBackground) jobs.push(job);
    else await job.ended;
  }
  for (const { connection, ended } of jobs)
    if (connection.isFrozen) connection.cut();
    else await ended;

  function insert(text) {
    return text
      .replace(/\b(?:TOKEN|SESSION)\b/g, (name) => values[name])
      .replace(/\$\(printf %0(\d+)d\)/, (_, count) => "0".repeat(count));
  }

  async function send(command) {
    const { method, path, headers, body, seconds, times = 1, showsHeaders, endsEarly } = command;
    const counts = new Map();
    let last = "";
    for (let number = 0; number < times; number += 1) {
      const controller = new AbortController();
      const timer = seconds && setTimeout(() => controller.abort(), seconds * 1000);
      const text = [];
      let result;
      try {
        const exchanged = await exchange(machine, port, insert(path), {
          method,
          headers: headers.map(([name, value]) => [name, insert(value)]),
          body: body && new TextEncoder().encode(insert(body)),
          signal: controller.signal,
        });
        const { head } = exchanged;
        result = head.status;
        text.push(`HTTP/1.1 ${head.status} ${head.statusText}\n`);
        if (showsHeaders) for (const [name, value] of head.headers) text.push(`${name}: ${value}\n`);
        for await (const piece of readText(exchanged, method)) text.push(piece);
      } catch (error) {
        const failure = controller.signal.aborted ? `nothing more for ${seconds} s`
          : `${result ? "cut off" : "no response"}: ${(error.cause ?? error).message}`;
        result ??= failure;
        text.push(!text.length || text.at(-1).endsWith("\n") ? "" : "\n", `(${failure})`);
      }
      clearTimeout(timer);
      counts.set(result, (counts.get(result) ?? 0) + 1);
      last = text.join("").trimEnd();
      for (const [, name, value] of last.matchAll(/\b(token|session)"?[:=] ?"?([\w-]+)/g))
        values[name.toUpperCase()] = value;
      if (endsEarly && typeof result === "string") break;
    }
    for (const each of machine.idle.splice(0)) each.close("eof"); // as curl does at its end
    if (times > 1) last = Array.from(counts, ([result, count]) => `${count} × ${result}`).join(", ");
    print(`${last}\n\n`);
  }

  async function converse({ path, message, seconds, isQuiet }) {
    const socket = openSocket(machine, port, path);
    const lines = []; // of equal messages, one after the other: [text, count]
    socket.onmessage = ({ data }) => {
      const text = data.length > SHOWN ? `${data.slice(0, SHOWN)}…` : data;
      if (lines.at(-1)?.[0] === text) lines.at(-1)[1] += 1;
      else lines.push([text, 1]);
    };
    socket.onopen = () => message && socket.send(insert(message));
    const ended = new Promise((resolve) => (socket.onclose = resolve));
    pause(seconds).then(() => socket.close(1000));
    const { code, reason } = await ended;
    if (isQuiet) return;
    for (const [text, count] of lines) print(`< ${text}${count > 1 ? ` × ${count}` : ""}\n`);
    print(`Connection closed: ${`${code} ${reason}`.trim()}\n\n`);
  }
}
