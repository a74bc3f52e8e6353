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

/** Builds a calculator of numbers: { name: [label, value, step] }, and what they give, as lines. */
function numbers(parent, title, fields, results) {
  parent.replaceChildren();
  element(parent, "p", { class: "title" }, title);
  const form = element(parent, "form");
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
    for (const line of results(values)) element(output, "p", {}, line);
  }
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}

const rounded = (number) => Number(number.toPrecision(3)).toLocaleString("en");

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
      return [
        `A held request, after ${after} s: ${held}.${race}`,
        `An idle stream ${idleStream({ ...values, idle: values.proxy })}.`,
      ];
    });
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
