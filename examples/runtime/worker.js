// A web worker that runs one Python program at a time. Its network is messages.
//
// Messages in: run, kill, signal, and those of a connection: connect, data, read, eof, reset.
// Messages out: ready, output, listening, exit, and those of a connection: data, eof, close, reset,
// refused.

import { loadPyodide } from "./pyodide.mjs";

const root = new URL(".", import.meta.url);

let events = []; // that the program has not seen
let wake; // resolves the promise that the program waits for
const immediate = new MessageChannel(); // setTimeout(…, 0) may take 4 ms
immediate.port1.onmessage = () => wake?.();

// What machine.py imports.
globalThis.network = {
  killed: false,

  wait(milliseconds) {
    return new Promise((resolve) => {
      let timer;
      wake = () => {
        wake = undefined;
        clearTimeout(timer);
        resolve();
      };
      if (events.length || milliseconds === 0) immediate.port2.postMessage(0);
      else if (milliseconds > 0) timer = setTimeout(wake, milliseconds);
    });
  },

  take() {
    const taken = events;
    events = [];
    return taken;
  },

  send(id, bytes) {
    if (!this.killed) postMessage({ type: "data", id, bytes }, [bytes.buffer]);
  },

  close(id, type) {
    if (!this.killed) postMessage({ type, id });
  },

  listening(port) {
    postMessage({ type: "listening", port });
  },
};

const output = {
  write(bytes) {
    if (!network.killed) postMessage({ type: "output", bytes: bytes.slice() });
    return bytes.length;
  },
};

async function boot() {
  const [pyodide, packages] = await Promise.all([
    loadPyodide({
      indexURL: root.href,
      // No packages of Pyodide's own, and so no list of them.
      lockFileContents: JSON.stringify({
        info: {
          abi_version: "2026_0",
          arch: "wasm32",
          platform: "emscripten_5_0_3",
          python: "3.14.2",
          version: "314.0.7",
        },
        packages: {},
      }),
      checkAPIVersion: false,
    }),
    fetch(new URL("packages.zip", root)).then((response) => response.arrayBuffer()),
  ]);
  pyodide.setStdout(output);
  pyodide.setStderr(output);
  pyodide.FS.writeFile("/packages.zip", new Uint8Array(packages));
  pyodide.runPython("import sys; sys.path.insert(0, '/packages.zip')");
  const machine = pyodide.pyimport("machine");
  machine.boot();

  let running;
  async function run({ folder, name, files, environment, number }) {
    await running;
    events = [];
    network.killed = false;
    const values = [files, environment].map((each) => pyodide.toPy(each));
    running = machine.run.callPromising(folder, name, ...values);
    const status = await running;
    running = undefined;
    postMessage({ type: "exit", status, number });
  }

  function handle({ data }) {
    if (data.type === "run") run(data);
    else if (data.type === "kill") {
      network.killed = Boolean(running);
      wake?.();
    } else if (data.type === "connect" && (network.killed || !running))
      postMessage({ type: "refused", id: data.id }); // there is no process
    else {
      events.push(data);
      wake?.();
    }
  }

  globalThis.onmessage = handle;
  postMessage({ type: "ready" });
}

boot().catch((error) => postMessage({ type: "failed", message: String(error) }));
