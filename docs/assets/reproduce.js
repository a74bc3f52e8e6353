// Sends the requests by which a wrong program shows its failure: the curl commands in its first
// lines, which publish/runnable.py has read.

import { exchange, readText } from "./runtime/network.js";

/** Sends the requests of a program that listens on a port; prints each command and its response,
    in the order in which the responses end. */
export async function reproduce(machine, port, commands, print) {
  let token = ""; // of the job that was submitted last
  const open = [];
  for (const command of commands) {
    print(`$ ${command.text}\n`);
    const sent = send(command);
    if (command.inBackground) open.push(sent);
    else await sent;
  }
  await Promise.all(open);

  async function send({ method, path, headers, body, seconds, times = 1, showsHeaders }) {
    const counts = new Map();
    let last = "";
    for (let number = 0; number < times; number += 1) {
      const controller = new AbortController();
      const timer = seconds && setTimeout(() => controller.abort(), seconds * 1000);
      const text = [];
      try {
        const exchanged = await exchange(machine, port, path.replace("TOKEN", token), {
          method, headers, body: body && new TextEncoder().encode(body), signal: controller.signal,
        });
        const { head } = exchanged;
        token = head.headers.get("location")?.split("/").at(-1) ?? token;
        text.push(`HTTP/1.1 ${head.status} ${head.statusText}\n`);
        if (showsHeaders) for (const [name, value] of head.headers) text.push(`${name}: ${value}\n`);
        counts.set(head.status, (counts.get(head.status) ?? 0) + 1);
        for await (const piece of readText(exchanged, method)) text.push(piece);
      } catch (error) {
        text.push(controller.signal.aborted
          ? `(nothing more for ${seconds} s)` : `(no response: ${(error.cause ?? error).message})`);
      }
      clearTimeout(timer);
      last = `${text.join("").trimEnd()}\n\n`;
    }
    if (times === 1) print(last);
    else print(`${[...counts].map(([status, count]) => `${count} × ${status}`).join(", ")}\n\n`);
  }
}
