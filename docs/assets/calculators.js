// The calculators: the formulas of a page, with the reader's own numbers.
//
// A calculator is <div class="calculator" data-kind="polling">; what stands in it is there for
// readers without JavaScript, and is replaced. tests/test_calculators.py compares each function
// with a recording, with real servers or with the library of websockets.

// Formulas

/** Polling a job at an interval: requests for each job, and the delay of its result. */
export function polling({ seconds, interval, clients }) {
  return {
    requests: seconds / interval + 0.5,
    meanDelay: interval / 2,
    maxDelay: interval,
    perSecond: clients / interval,
  };
}

const OUTCOMES = {
  hold: "200 with pending, from the handler",
  server: "503, from the server",
  proxy: "504, from the proxy",
  client: "no response: the client raises a timeout error",
};
const TIMEOUTS = {
  hold: "the hold of the handler",
  server: "RESPONSE_TIMEOUT",
  proxy: "the proxy's timeout",
  client: "the client's timeout",
};

/** A held request: whose timeout expires first, after how many seconds, and what the client gets. */
export function heldRequest(timeouts) {
  const after = Math.min(...Object.keys(OUTCOMES).map((party) => timeouts[party]));
  const first = Object.keys(OUTCOMES).filter((party) => timeouts[party] === after);
  return { first, after, outcomes: first.map((party) => OUTCOMES[party]) };
}

/** An idle stream or WebSocket, with a heartbeat: whether it stays open. */
export function idleStream({ heartbeat, idle }) {
  if (heartbeat * 2 <= idle) return "stays open, also when one heartbeat is late";
  if (heartbeat < idle) return "stays open until one heartbeat is late";
  return `is closed after ${idle} s`;
}

const SPARE = 150; // descriptors of an instance that clients cannot take, as in the hardened servers
const PORTS = 28232; // from one address to one port of an instance, the default of Linux

/**
 * What clients that stay connected need. `kib`: memory of a connection, the kernel's included;
 * `base`: MiB of an empty process; `handshake`: µs of processor time; `gib` and `files`: memory
 * and open files of an instance.
 */
export function capacity({ clients, kib, base, handshake, gib, files }) {
  const limits = {
    "open files": Math.max(0, files - SPARE),
    memory: Math.max(0, Math.floor((gib * 1024 - base) * 1024 / kib)),
  };
  const [first] = Object.keys(limits).sort((one, other) => limits[one] - limits[other]);
  const each = limits[first];
  const instances = Math.ceil(clients / each);
  const held = Math.ceil(clients / instances);
  const moved = held / (instances - 1);
  return {
    first,
    each,
    instances,
    held,
    gib: (instances * base * 1024 + clients * kib) / 2 ** 20,
    moved, // connections that each other instance takes when one fails
    fits: held + moved <= each,
    seconds: (moved * handshake) / 1e6,
    all: (clients * handshake) / 1e6,
    proxyFiles: 2 * clients,
    addresses: Math.ceil(held / PORTS),
  };
}

/**
 * A load balancer's instances, { name, state: "up", "draining" or "down", open }: places so many
 * new connections, by "round robin" or "least connections". Open connections do not move.
 */
export function connect({ instances, turn }, clients, algorithm) {
  const placed = instances.map((instance) => ({ ...instance }));
  for (let client = 0; client < clients; client++) {
    // In turn, from the one after the last that was chosen.
    const order = [...placed.slice(turn), ...placed.slice(0, turn)];
    const candidates = order.filter(({ state }) => state === "up");
    if (!candidates.length) break;
    const least = Math.min(...candidates.map(({ open }) => open));
    const chosen =
      algorithm === "round robin" ? candidates[0] : candidates.find(({ open }) => open === least);
    chosen.open += 1;
    turn = (placed.indexOf(chosen) + 1) % placed.length;
  }
  return { instances: placed, turn };
}

/** Changes one instance: its connections end unless it drains, and those of a killed one return. */
export function change({ instances, turn }, name, action, algorithm) {
  const states = { start: "up", drain: "draining", kill: "down" };
  const lost = action === "kill" ? instances.find((each) => each.name === name).open : 0;
  const changed = instances.map((each) => {
    if (each.name !== name) return each;
    const open = action === "drain" || (action === "start" && each.state === "draining") ? each.open : 0;
    return { name, state: states[action] ?? each.state, open };
  });
  return connect({ instances: changed, turn }, lost, algorithm);
}

const OPCODES = { 0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong" };

/** A text message as one WebSocket frame: RFC 6455 §5.2. `key`: four bytes, from a client. */
export function encodeFrame(text, key) {
  const payload = new TextEncoder().encode(text);
  const { length } = payload;
  const mask = key ? 0x80 : 0;
  const head = [0x81];
  if (length < 126) head.push(mask | length);
  else if (length < 65536) head.push(mask | 126, length >> 8, length & 255);
  else head.push(mask | 127, ...bigEndian(length));
  const body = key ? payload.map((byte, number) => byte ^ key[number % 4]) : payload;
  return Uint8Array.from([...head, ...(key ?? []), ...body]);
}

function bigEndian(length) {
  return [...new Uint8Array(new BigUint64Array([BigInt(length)]).buffer)].reverse();
}

/** Reads one frame; throws an Error that says what is wrong with it. */
export function decodeFrame(bytes) {
  if (bytes.length < 2) throw new Error("a frame has at least two bytes");
  const [first, second] = bytes;
  const opcode = OPCODES[first & 15];
  if (first & 0x70) throw new Error("a reserved bit is set: compression, or no WebSocket frame");
  if (!opcode) throw new Error(`opcode ${first & 15} is reserved`);
  const fin = first >= 128;
  const masked = second >= 128;
  let length = second & 127;
  let at = 2;
  if (first & 8 && (length > 125 || !fin))
    throw new Error("a control frame is whole, and has at most 125 bytes");
  if (length > 125) {
    const size = length === 126 ? 2 : 8;
    if (bytes.length < at + size) throw new Error("the length is cut off");
    length = Number(bytes.slice(at, at + size).reduce((sum, byte) => sum * 256n + BigInt(byte), 0n));
    at += size;
    if (length < (size === 2 ? 126 : 65536)) throw new Error("the length has too many bytes");
  }
  const key = masked ? bytes.slice(at, at + 4) : [];
  at += key.length;
  const payload = Uint8Array.from(bytes.slice(at, at + length), (byte, number) =>
    masked ? byte ^ key[number % 4] : byte,
  );
  if (payload.length < length || (masked && key.length < 4))
    throw new Error(`${at + length - bytes.length} bytes are missing`);
  return { fin, opcode, masked, length, payload, rest: bytes.length - at - length };
}

// On a page

function element(parent, name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
}

/** Adds an input with a label; returns the input. */
function input(parent, text, attributes) {
  const label = element(parent, "label", {}, text);
  return element(label, "input", attributes);
}

/** Adds a menu with a label, of { value: words }; returns it. */
function menu(parent, text, choices) {
  const select = element(element(parent, "label", {}, text), "select");
  for (const [value, words] of Object.entries(choices)) element(select, "option", { value }, words);
  return select;
}

/**
 * Builds a calculator of numbers: { name: [label, value, step] }, and what they give, as lines.
 * `choose` adds a menu to the form, and returns it: results get its value as `choice`.
 */
function numbers(parent, title, fields, results, choose) {
  parent.replaceChildren();
  element(parent, "p", { class: "title" }, title);
  const form = element(parent, "form");
  const choice = choose?.(form);
  const inputs = Object.entries(fields).map(([name, [label, value, step]]) => [
    name,
    input(form, label, { type: "number", min: step, step, value, required: "" }),
  ]);
  const output = element(parent, "output", { "aria-live": "polite" });
  function update() {
    output.replaceChildren();
    if (!form.checkValidity()) {
      element(output, "p", {}, "Each number must be positive.");
      return;
    }
    const values = Object.fromEntries(inputs.map(([name, { value }]) => [name, Number(value)]));
    for (const line of results({ ...values, choice: choice?.value })) element(output, "p", {}, line);
  }
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}

const rounded = (number) => Number(number.toPrecision(3)).toLocaleString("en");
const whole = (number) => Math.ceil(number).toLocaleString("en");

/** Reads a table without its head: a name in the first cell of each row, then numbers. */
function rows(table) {
  return [...table.tBodies[0].rows].map(({ cells: [name, ...numbers] }) => [
    name.textContent,
    ...numbers.map((cell) => Number(cell.textContent.replaceAll(",", ""))),
  ]);
}

const CALCULATORS = {
  polling(parent) {
    const fields = {
      seconds: ["length of the job, in seconds", 60, 0.1],
      interval: ["interval, in seconds", 10, 0.1],
      clients: ["clients that poll at the same time", 1000, 1],
    };
    numbers(parent, "Polling interval", fields, (values) => {
      const { requests, meanDelay, maxDelay, perSecond } = polling(values);
      return [
        `${rounded(requests)} polls for each job, on average`,
        `${rounded(meanDelay)} s late on average, ${rounded(maxDelay)} s at most`,
        `${rounded(perSecond)} polls a second for the server`,
      ];
    });
  },

  timeouts(parent) {
    const fields = {
      hold: ["hold of the handler, in seconds", 25, 1],
      server: ["RESPONSE_TIMEOUT of the server", 30, 1],
      proxy: ["proxy_read_timeout or timeout server", 60, 1],
      client: ["timeout of the client", 35, 1],
      heartbeat: ["heartbeat or ping interval of a stream", 20, 1],
    };
    numbers(parent, "Which timeout expires first?", fields, (values) => {
      const { first, after, outcomes } = heldRequest(values);
      const held = outcomes.join(", or ");
      const race = first.length > 1 ? " It is a race: make them different." : "";
      const names = first.map((party) => TIMEOUTS[party]).join(" and ");
      return [
        `A held request: ${names} expires first, after ${after} s: ${held}.${race}`,
        `An idle stream ${idleStream({ ...values, idle: values.proxy })}.`,
      ];
    });
  },

  // The measured costs stand in a table on the page.
  capacity(parent) {
    const table = parent.querySelector("table");
    const kept = table.closest(".md-typeset__scrollwrap") ?? table;
    const servers = rows(table).map(([name, kib, base, handshake]) => ({ name, kib, base, handshake }));
    const fields = {
      clients: ["clients connected at the same time", 100000, 1],
      gib: ["memory of an instance, in GiB", 2, 0.1],
      files: ["open files of an instance", 65536, 1],
    };
    const choose = (form) =>
      menu(form, "server", Object.fromEntries(servers.map(({ name }, number) => [number, name])));
    const results = ({ choice, ...values }) => {
      const found = capacity({ ...values, ...servers[choice] });
      if (!found.each) return ["An instance has no room for a client."];
      const lines = [
        `${whole(found.instances)} instances, limited by ${found.first}: up to ${whole(found.each)} clients each`,
        `${whole(found.held)} clients each, and ${rounded(found.gib)} GiB in all`,
        `the load balancer: ${whole(found.proxyFiles)} open files, and ${whole(found.addresses)} ` +
          `addresses with ${whole(PORTS)} ports each`,
      ];
      if (found.instances < 2) lines.push("if it fails, nothing is left: start a second instance");
      else {
        const room = found.fits ? "" : ", for which there is no room: start one instance more";
        lines.push(
          `if one fails, ${whole(found.moved)} handshakes for each other instance, ` +
            `${rounded(found.seconds)} s of processor time${room}`,
        );
      }
      return lines;
    };
    numbers(parent, "Capacity", fields, results, choose);
    const fold = element(parent, "details");
    element(fold, "summary", {}, "The measured costs");
    fold.append(kept);
  },

  balancer(parent) {
    parent.replaceChildren();
    element(parent, "p", { class: "title" }, "Where connections are");
    const form = element(parent, "form");
    const algorithm = menu(form, "load balancing", {
      "least connections": "least connections",
      "round robin": "round robin",
    });
    const clients = input(form, "clients that connect", { type: "number", min: 1, max: 999, value: 6 });
    const list = element(parent, "ul", { class: "bars" });
    const output = element(parent, "output", { "aria-live": "polite" });
    let now;

    function button(place, words, act, label = words) {
      const made = element(place, "button", { type: "button", "aria-label": label }, words);
      made.addEventListener("click", act);
    }
    const total = () => now.instances.reduce((sum, { open }) => sum + open, 0);
    function show(said) {
      // The focus stays at its place: that of the instance, and of its button.
      const focused = list.contains(document.activeElement) && document.activeElement;
      const row = focused && [...list.children].indexOf(focused.closest("li"));
      const column = focused && [...focused.parentElement.children].indexOf(focused);
      list.replaceChildren();
      const most = Math.max(10, ...now.instances.map(({ open }) => open));
      for (const { name, state, open } of now.instances) {
        const item = element(list, "li", { class: state });
        const words = { up: "", draining: ", draining", down: ", down" }[state];
        element(item, "span", { class: "name" }, `${name}: ${open}${words}`);
        element(item, "span", { class: "bar" }).style.setProperty("--share", open / most);
        const act = (action) => () => {
          const before = total();
          now = change(now, name, action, algorithm.value);
          const back = total() === before ? "have reconnected" : "found no instance";
          show(
            {
              start: `${name} is up. No connection moved to it.`,
              drain: `${name} gets no new connection, and keeps its ${open}.`,
              kill: `${name} is down. Its ${open} clients ${back}.`,
              disconnect: `The ${open} clients of ${name} have left.`,
            }[action],
          );
        };
        const buttons = element(item, "span", { class: "buttons" });
        if (state === "up") button(buttons, "Drain", act("drain"), `Drain ${name}`);
        else button(buttons, "Start", act("start"), `Start ${name}`);
        if (state === "down") continue;
        button(buttons, "Kill", act("kill"), `Kill ${name}`);
        button(buttons, "Disconnect", act("disconnect"), `Disconnect the clients of ${name}`);
      }
      if (focused) {
        const buttons = list.children[row].querySelectorAll("button");
        (buttons[column] ?? buttons[0]).focus();
      }
      const counts = now.instances.map(({ name, open }) => `${name} ${open}`).join(", ");
      output.replaceChildren();
      element(output, "p", {}, `${said} Connections: ${counts}.`);
    }
    const actions = element(form, "span", { class: "buttons" });
    button(actions, "Connect", () => {
      if (!form.reportValidity()) return;
      now = connect(now, Number(clients.value), algorithm.value);
      show(`${clients.value} clients have connected.`);
    });
    button(actions, "Add an instance", () => {
      const name = "abcdefgh"[now.instances.length];
      if (!name) return;
      now = { ...now, instances: [...now.instances, { name, state: "up", open: 0 }] };
      show(`${name} is up. No connection moved to it.`);
    });
    button(actions, "Reset", reset);
    function reset() {
      const instances = ["a", "b"].map((name) => ({ name, state: "up", open: 15 }));
      now = { instances, turn: 0 };
      show("30 clients are connected to two instances.");
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    reset();
  },

  frame(parent) {
    parent.replaceChildren();
    element(parent, "p", { class: "title" }, "A frame, byte by byte");
    const form = element(parent, "form");
    const text = input(form, "text message", { value: "Hello", maxlength: 1000 });
    const masked = input(form, "from a client, with a mask", { type: "checkbox" });
    const hex = input(form, "bytes of a frame, in hexadecimal", { spellcheck: "false" });
    const output = element(parent, "output", { "aria-live": "polite" });
    const key = Uint8Array.of(0x37, 0xfa, 0x21, 0x3d); // that of the examples in RFC 6455 §5.7
    function encode() {
      const bytes = encodeFrame(text.value, masked.checked ? key : undefined);
      hex.value = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
      decode();
    }
    function decode() {
      output.replaceChildren();
      element(output, "p", {}, describe(hex.value));
    }
    text.addEventListener("input", encode);
    masked.addEventListener("input", encode);
    hex.addEventListener("input", decode);
    form.addEventListener("submit", (event) => event.preventDefault());
    encode();
  },
};

/** Says in one line what bytes in hexadecimal are. */
export function describe(hex) {
  const digits = hex.replace(/0x|[\s,:]/g, "");
  if (!/^([0-9a-f]{2})+$/i.test(digits)) return "Write bytes as pairs of hexadecimal digits: 81 05 …";
  try {
    const bytes = Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
    const { fin, opcode, masked, length, payload, rest } = decodeFrame(bytes);
    const parts = [
      `${opcode} frame`,
      fin ? "the last of its message" : "more frames follow",
      masked ? "masked, so from a client" : "not masked, so from a server",
      `${length} bytes`,
    ];
    if (opcode === "close" && length > 1) parts.push(`code ${payload[0] * 256 + payload[1]}`);
    if (opcode === "text") parts.push(`“${new TextDecoder().decode(payload)}”`);
    if (rest) parts.push(`${rest} bytes follow`);
    return parts.join(" · ");
  } catch (error) {
    return `Not a frame: ${error.message}.`;
  }
}

for (const parent of document.querySelectorAll(".calculator"))
  CALCULATORS[parent.dataset.kind](parent);
