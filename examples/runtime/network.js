// The page's side of a network whose servers run in a worker: TCP connections as messages and, on
// top of them, HTTP/1.1 and WebSocket, offered as fetch, EventSource and WebSocket.
//
//   const machine = new Machine(url);      the worker; `await machine.ready`
//   machine.run({ folder, name, files })   starts a program; events: output, listening, exit
//   machine.signal(15), machine.kill()     SIGTERM; SIGKILL
//   patch(window, machine, base, port)     lets a window reach the program under an address
//
// The network between them can be disturbed, as a whole or one connection at a time:
//
//   machine.delay = 200          milliseconds that each byte takes, in either direction
//   machine.freeze(), .thaw()    nothing passes, and neither side notices: a pulled cable. What was
//                                sent meanwhile arrives after thaw(), in order
//   machine.disturb({ delay, isFrozen })    both of these
//   machine.cut()                resets every connection, at once and for both sides
//   connection.freeze(), .thaw(), .cut()    the same for one of machine.connections
//   machine.connect(port, true)  a connection of another client: neither disturbed nor counted
//
// What passes can be observed:
//
//   machine.traffic              { connections, requests, up, down }: opened, sent, bytes
//   event "open"                 { connection }
//   event "message"              { connection, from, kind, passage, … }: `from` is "client" or
//                                "server"; `kind` is request (method, path, data), response (status,
//                                data), event (data: its lines), message, ping, pong or close
//                                (data); data is text, or undefined
//   event "close"                { connection, by, how }: `by` is client, server, network or exit
//
// A passage is { at, arrives, lost }: when it was sent and when it arrived (performance.now());
// `arrives` is missing while it is on its way, and `lost` is true if it never arrives.

const encode = (text) => new TextEncoder().encode(text);
const decode = (bytes) => new TextDecoder().decode(bytes);
const latin = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
const KEPT = 10_000; // bytes of a body that an observer is shown
const UNREAD = 65_536; // bytes of a body that a page has not read, as in a browser

/** The worker that runs a program, and the connections to it. */
export class Machine extends EventTarget {
  #url;
  #worker;
  #connections = new Map(); // that the client has not seen end
  #nextConnection = 1;
  #number = 0;
  idle = []; // connections that can carry another request
  delay = 0; // milliseconds, of what is sent from now on
  isFrozen = false;
  waiting = new Set(); // directions of connections in which something is on its way
  traffic = { connections: 0, requests: 0, up: 0, down: 0 };

  /** Resolves when the worker can run programs. */
  ready;

  constructor(url) {
    super();
    this.#url = url;
    this.restart();
  }

  /** Starts the worker anew, also where a program never gives it a chance to read messages. */
  restart() {
    this.#worker?.terminate();
    this.#lose("reset");
    this.#worker = new Worker(this.#url, { type: "module" });
    this.ready = new Promise((resolve, reject) => {
      this.#worker.onerror = (event) => reject(new Error(event.message || "the worker failed"));
      this.#worker.onmessage = ({ data }) => {
        if (data.type === "ready") resolve();
        if (data.type === "failed") reject(new Error(data.message));
        this.#receive(data);
      };
    });
  }

  #receive(data) {
    if ("id" in data) return this.#connections.get(data.id)?.receive(data);
    // A process that ends closes its connections.
    if (data.type === "exit" && data.number === this.#number) this.#lose("close");
    this.report(data.type, data);
  }

  report(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  post(message, transfer) {
    this.#worker.postMessage(message, transfer);
  }

  /** The connections that are open, as far as the client knows. */
  get connections() {
    return [...this.#connections.values()];
  }

  connect(port, isOther = false) {
    const connection = new Connection(this, this.#nextConnection++, port, isOther);
    this.#connections.set(connection.id, connection);
    if (!isOther) this.traffic.connections += 1;
    this.report("open", { connection });
    return connection;
  }

  forget(id) {
    this.#connections.delete(id);
  }

  /** Runs files[name]; returns the number of the run, which its `exit` event carries. */
  run({ folder, name, files, environment = {} }) {
    this.#lose("reset");
    this.#number += 1;
    this.post({ type: "run", folder, name, files, environment, number: this.#number });
    return this.#number;
  }

  signal(number) {
    this.post({ type: "signal", number });
  }

  /** Ends the program as SIGKILL does: its connections are reset. */
  kill() {
    this.post({ type: "kill" });
    this.#lose("reset");
  }

  #lose(type) {
    for (const connection of this.connections) connection.lose(type);
  }

  /** Sets how the network is disturbed, at once. */
  disturb({ delay = 0, isFrozen = false }) {
    this.delay = delay;
    if (isFrozen) this.freeze();
    else this.thaw();
  }

  freeze() {
    this.isFrozen = true;
  }

  thaw() {
    this.isFrozen = false;
    for (const link of [...this.waiting]) link.pass();
  }

  cut() {
    for (const connection of this.connections) if (!connection.isOther) connection.cut();
  }
}

/** One direction of a connection: delivers messages in order, each after its delay. */
class Link {
  #queue = [];
  #timer;
  #waiting;
  #isFrozen;
  #deliver;

  constructor(waiting, isFrozen, deliver) {
    this.#waiting = waiting;
    this.#isFrozen = isFrozen;
    this.#deliver = deliver;
  }

  /** Sends a message; returns its passage. */
  push(message, delay) {
    const passage = { at: performance.now() };
    const due = Math.max(passage.at + delay, this.#queue.at(-1)?.due ?? 0);
    this.#queue.push({ message, passage, due });
    this.pass();
    return passage;
  }

  /** Delivers what is due. */
  pass() {
    clearTimeout(this.#timer);
    this.#waiting.add(this);
    while (this.#queue.length && !this.#isFrozen()) {
      const wait = this.#queue[0].due - performance.now();
      if (wait > 0) {
        this.#timer = setTimeout(() => this.pass(), wait);
        return;
      }
      const { message, passage } = this.#queue.shift();
      passage.arrives = performance.now();
      this.#deliver(message, passage);
    }
    if (!this.#queue.length) this.#waiting.delete(this);
  }

  /** Loses what is on its way. */
  drop() {
    for (const { passage } of this.#queue.splice(0)) passage.lost = true;
    this.#waiting.delete(this);
  }
}

/** The client's side of a TCP connection. */
class Connection {
  open = true;
  isFrozen = false;
  passage; // of the bytes that arrived last
  #buffer = new Uint8Array(0);
  #ended;
  #wake;
  #up;
  #down;
  #isLost = false; // the program has ended

  constructor(machine, id, port, isOther) {
    this.machine = machine;
    this.id = id;
    this.port = port;
    this.isOther = isOther;
    const isFrozen = () => this.isFrozen || (machine.isFrozen && !isOther);
    this.#up = new Link(machine.waiting, isFrozen, (message) => this.#isLost || machine.post(message));
    this.#down = new Link(machine.waiting, isFrozen, (message, passage) => this.#arrive(message, passage));
    // The server accepts when the third packet of the handshake arrives.
    this.#up.push({ type: "connect", id, port }, 3 * this.#delay);
  }

  get #delay() {
    return this.isOther ? 0 : this.machine.delay;
  }

  /** Takes what the server has sent. */
  receive(message) {
    this.#down.push(message, this.#delay);
  }

  #arrive({ type, bytes, by = "server" }, passage) {
    if (type === "data") {
      this.passage = passage;
      if (!this.isOther) this.machine.traffic.down += bytes.length;
      const joined = new Uint8Array(this.#buffer.length + bytes.length);
      joined.set(this.#buffer);
      joined.set(bytes, this.#buffer.length);
      this.#buffer = joined;
    } else this.#end(type, by);
    this.#wake?.();
  }

  #end(type, by) {
    if (!this.open) return;
    this.open = false;
    this.#ended = type;
    this.machine.forget(this.id);
    this.machine.report("close", { connection: this, by, how: type });
    this.#wake?.();
  }

  /** Sends bytes; returns their passage. */
  send(bytes) {
    if (!this.open || !bytes.length) return { at: performance.now(), lost: true };
    if (!this.isOther) this.machine.traffic.up += bytes.length;
    return this.#up.push({ type: "data", id: this.id, bytes }, this.#delay);
  }

  close(type = "reset") {
    if (!this.open) return;
    this.#down.drop();
    this.#end(type, "client");
    this.#up.push({ type, id: this.id }, this.#delay);
  }

  /** The program has ended, and takes nothing more. */
  lose(type) {
    this.#isLost = true;
    this.#up.drop();
    this.#down.push({ type, by: "exit" }, this.#delay);
  }

  freeze() {
    this.isFrozen = true;
  }

  thaw() {
    this.isFrozen = false;
    this.#up.pass();
    this.#down.pass();
  }

  /** Resets the connection, as a device on its way can: both sides learn of it. */
  cut() {
    if (!this.open) return;
    this.#up.drop();
    this.#down.drop();
    if (!this.#isLost) this.machine.post({ type: "reset", id: this.id });
    this.#end("reset", "network");
  }

  /** Reports what has passed to those who observe the machine. */
  report(from, kind, passage, more) {
    this.machine.report("message", { connection: this, from, kind, passage, ...more });
  }

  #acknowledge(count) {
    this.#up.push({ type: "read", id: this.id, count }, this.#delay);
  }

  /** Returns the bytes that have arrived, at least one; none at the end of the stream. */
  async some() {
    while (!this.#buffer.length && !this.#ended)
      await new Promise((resolve) => (this.#wake = resolve));
    const bytes = this.#buffer;
    if (!bytes.length && this.#ended !== "close" && this.#ended !== "eof")
      throw new TypeError(`connection ${this.#ended}`);
    this.#buffer = new Uint8Array(0);
    if (bytes.length) this.#acknowledge(bytes.length);
    return bytes;
  }

  unread(bytes) {
    const joined = new Uint8Array(bytes.length + this.#buffer.length);
    joined.set(bytes);
    joined.set(this.#buffer, bytes.length);
    this.#buffer = joined;
    if (bytes.length) this.#acknowledge(-bytes.length);
  }

  /** Returns `count` bytes. */
  async exactly(count) {
    const parts = new Uint8Array(count);
    for (let have = 0; have < count; ) {
      const bytes = await this.some();
      if (!bytes.length) throw new TypeError("the response was cut off");
      const part = bytes.subarray(0, count - have);
      this.unread(bytes.subarray(part.length));
      parts.set(part, have);
      have += part.length;
    }
    return parts;
  }

  /** Returns the text before `end`: a line, or the head of a response. */
  async until(end) {
    let text = "";
    for (;;) {
      const bytes = await this.some();
      if (!bytes.length) throw new TypeError("the response was cut off");
      const at = (text + latin(bytes)).indexOf(end);
      if (at >= 0) {
        const rest = at + end.length - text.length;
        text += latin(bytes.subarray(0, rest));
        this.unread(bytes.subarray(rest));
        return text.slice(0, at);
      }
      text += latin(bytes);
    }
  }

  async head() {
    const [first, ...lines] = (await this.until("\r\n\r\n")).split("\r\n");
    const [, status, statusText] = /^HTTP\/1\.[01] (\d{3}) ?(.*)$/.exec(first);
    const headers = new Headers();
    for (const line of lines) {
      const at = line.indexOf(":");
      headers.append(line.slice(0, at), line.slice(at + 1).trim());
    }
    return { status: Number(status), statusText, headers };
  }
}

/** Yields the body of a response in pieces; returns whether the connection can be used again. */
export async function* readBody(connection, head, method) {
  const { status, statusText, headers } = head;
  const { passage } = connection;
  const type = headers.get("content-type") ?? "";
  const decoder = new TextDecoder();
  let text = "";
  const respond = (data) =>
    connection.report("server", "response", passage, { status, statusText, data });
  const isJson = /\bjson\b/.test(type); // which is reported with its body
  if (!isJson) respond();
  const pieces = body(connection, head, method);
  try {
    for (;;) {
      const { done, value } = await pieces.next();
      if (done) return value;
      if (isJson && text.length < KEPT) text += decoder.decode(value, { stream: true });
      if (type.startsWith("text/event-stream")) {
        const events = (text + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
        text = events.pop();
        for (const data of events) connection.report("server", "event", connection.passage, { data });
      }
      yield value;
    }
  } finally {
    if (isJson) respond(text);
  }
}

/** Yields the body of a response to `exchange` as text, and then gives its connection back. */
export async function* readText({ connection, head, done }, method) {
  const decoder = new TextDecoder();
  const pieces = readBody(connection, head, method);
  for (;;) {
    const { done: ended, value } = await pieces.next();
    if (ended) return done(value);
    yield decoder.decode(value, { stream: true });
  }
}

async function* body(connection, { status, headers }, method) {
  const lasts = headers.get("connection")?.toLowerCase() !== "close";
  if (method === "HEAD" || status === 204 || status === 304) return lasts;
  if (/chunked/i.test(headers.get("transfer-encoding") ?? "")) {
    for (;;) {
      let left = Number.parseInt(await connection.until("\r\n"), 16);
      if (!left) break;
      while (left) {
        const bytes = await connection.some();
        if (!bytes.length) throw new TypeError("the response was cut off");
        const part = bytes.subarray(0, left);
        connection.unread(bytes.subarray(part.length));
        left -= part.length;
        yield part;
      }
      await connection.until("\r\n");
    }
    await connection.until("\r\n");
    return lasts;
  }
  if (headers.has("content-length")) {
    let left = Number(headers.get("content-length"));
    while (left) {
      const bytes = await connection.some();
      if (!bytes.length) throw new TypeError("the response was cut off");
      const part = bytes.subarray(0, left);
      connection.unread(bytes.subarray(part.length));
      left -= part.length;
      yield part;
    }
    return lasts;
  }
  for (;;) {
    const bytes = await connection.some();
    if (!bytes.length) return false;
    yield bytes;
  }
}

/** Sends a request for a path; returns the connection, the head of the response, and a function
    to call when its body has been read. */
export async function exchange(machine, port, path, { method, headers, body, signal }) {
  for (;;) {
    const used = machine.idle.findIndex((each) => each.open && each.port === port);
    const connection = used < 0 ? machine.connect(port) : machine.idle.splice(used, 1)[0];
    const abort = () => connection.close("reset");
    signal?.addEventListener("abort", abort, { once: true });
    try {
      const lines = [`${method} ${path} HTTP/1.1`, `Host: 127.0.0.1:${port}`];
      for (const [name, value] of headers) lines.push(`${name}: ${value}`);
      if (body || method === "POST") lines.push(`Content-Length: ${body?.length ?? 0}`);
      const head = encode(`${lines.join("\r\n")}\r\n\r\n`);
      const all = new Uint8Array(head.length + (body?.length ?? 0));
      all.set(head);
      if (body) all.set(body, head.length);
      machine.traffic.requests += 1;
      const data = body && decode(body.subarray(0, KEPT));
      connection.report("client", "request", connection.send(all), { method, path, data });
      let response = await connection.head();
      while (response.status < 200 && response.status !== 101) response = await connection.head();
      const done = (reusable) => {
        signal?.removeEventListener("abort", abort);
        if (reusable && connection.open) machine.idle.push(connection);
        else connection.close("eof");
      };
      return { connection, head: response, done };
    } catch (error) {
      signal?.removeEventListener("abort", abort);
      if (signal?.aborted) throw signal.reason;
      // The server may have closed an idle connection just now: retry on a new one.
      if (used < 0 || method === "POST") throw new TypeError("Failed to fetch", { cause: error });
    }
  }
}

/** Replaces fetch, EventSource and WebSocket of a window for the URLs below `base`, which `machine`
    serves on `port`; closes its connections when it is left, as a browser does. */
export function patch(window, machine, base, port) {
  const ours = (url) => url.href.startsWith(base.href);
  const pathOf = (url) =>
    `/${url.href.slice(base.href.length).replace(/^\//, "").replace(/#.*/, "")}`;
  const realFetch = window.fetch.bind(window);
  const left = new AbortController();
  window.addEventListener?.("pagehide", () => left.abort());

  async function fetch(resource, options = {}) {
    const request = new window.Request(resource, options);
    const url = new URL(request.url);
    if (!ours(url)) return realFetch(resource, options);
    const { method } = request;
    const signal = AbortSignal.any([request.signal, left.signal]);
    signal.throwIfAborted();
    const headers = new Headers(request.headers);
    for (const [name, value] of [["accept", "*/*"], ["user-agent", navigator.userAgent]])
      if (!headers.has(name)) headers.set(name, value);
    if (options.cache === "no-store") headers.set("cache-control", "no-cache");
    const body = options.body == null ? undefined : new Uint8Array(await request.arrayBuffer());
    const { connection, head, done } = await exchange(machine, port, pathOf(url), {
      method, headers, body, signal,
    });
    const pieces = readBody(connection, head, method);
    const stream = new ReadableStream({
      async pull(controller) {
        try {
          const { done: ended, value } = await pieces.next();
          if (!ended) return controller.enqueue(value);
          done(value);
          controller.close();
        } catch (error) {
          controller.error(signal.aborted ? signal.reason : error);
        }
      },
      cancel: () => connection.close("reset"),
    }, new ByteLengthQueuingStrategy({ highWaterMark: UNREAD }));
    const empty = [204, 205, 304].includes(head.status);
    if (empty) done((await pieces.next()).value);
    // What came with the head is read by then, and the connection can carry the next request.
    await new Promise((resolve) => setTimeout(resolve));
    const response = new window.Response(empty ? null : stream, head);
    Object.defineProperty(response, "url", { value: url.href });
    return response;
  }

  class EventSource extends window.EventTarget {
    static CONNECTING = 0;
    static OPEN = 1;
    static CLOSED = 2;
    CONNECTING = 0;
    OPEN = 1;
    CLOSED = 2;
    readyState = 0;
    withCredentials = false;
    onopen = null;
    onmessage = null;
    onerror = null;
    #retry = 3000;
    #last = "";
    #controller = new AbortController();

    constructor(url) {
      super();
      this.url = new URL(url, window.document.baseURI).href;
      for (const type of ["open", "message", "error"])
        this.addEventListener(type, (event) => this[`on${type}`]?.(event));
      this.#run();
    }

    close() {
      this.readyState = 2;
      this.#controller.abort();
    }

    async #run() {
      while (this.readyState !== 2) {
        try {
          const headers = { Accept: "text/event-stream", "Cache-Control": "no-cache" };
          if (this.#last) headers["Last-Event-ID"] = this.#last;
          const response = await fetch(this.url, { headers, signal: this.#controller.signal });
          if (this.readyState === 2) return;
          const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
          if (response.status !== 200 || !isStream) {
            this.readyState = 2;
            this.dispatchEvent(new window.Event("error"));
            return;
          }
          this.readyState = 1;
          this.dispatchEvent(new window.Event("open"));
          await this.#read(response);
        } catch {
          // The connection is lost: reconnect below.
        }
        if (this.readyState === 2 || window.closed) return; // also if its frame was removed
        this.readyState = 0;
        this.dispatchEvent(new window.Event("error"));
        await new Promise((resolve) => setTimeout(resolve, this.#retry));
      }
    }

    async #read(response) {
      let rest = "";
      let type = "";
      let id = this.#last;
      let data = [];
      const reader = response.body.getReader(); // Safari's stream is not iterable
      const decoder = new TextDecoder();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        const text = decoder.decode(value, { stream: true });
        const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
        rest = lines.pop();
        for (const line of lines) {
          if (line === "") {
            this.#last = id;
            if (data.length && this.readyState === 1)
              this.dispatchEvent(new window.MessageEvent(type || "message", {
                data: data.join("\n"), lastEventId: id, origin: new URL(this.url).origin,
              }));
            [type, data] = ["", []];
            continue;
          }
          const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
          if (field === "event") type = value ?? "";
          else if (field === "data") data.push(value ?? "");
          else if (field === "id") id = value ?? "";
          else if (field === "retry" && /^\d+$/.test(value)) this.#retry = Number(value);
        }
      }
    }
  }

  const RealWebSocket = window.WebSocket;
  class WebSocket extends window.EventTarget {
    static CONNECTING = 0;
    static OPEN = 1;
    static CLOSING = 2;
    static CLOSED = 3;
    CONNECTING = 0;
    OPEN = 1;
    CLOSING = 2;
    CLOSED = 3;
    readyState = 0;
    bufferedAmount = 0;
    binaryType = "blob";
    protocol = "";
    extensions = "";
    onopen = null;
    onmessage = null;
    onerror = null;
    onclose = null;
    #connection;
    #controller = new AbortController(); // of the handshake
    #closing; // code and reason of the close frame that was received

    constructor(address) {
      const url = new URL(address, window.document.baseURI);
      const http = new URL(url.href.replace(/^ws/, "http"));
      if (!ours(http)) return new RealWebSocket(address);
      super();
      this.url = url.href.replace(/^http/, "ws");
      for (const type of ["open", "message", "error", "close"])
        this.addEventListener(type, (event) => this[`on${type}`]?.(event));
      left.signal.addEventListener("abort", () => this.close(1001));
      this.#run(http);
    }

    async #run(url) {
      let code = 1006;
      let reason = "";
      try {
        const key = btoa(latin(crypto.getRandomValues(new Uint8Array(16))));
        const headers = new Headers({
          Connection: "Upgrade", Upgrade: "websocket", Origin: window.location.origin,
          "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key, "User-Agent": navigator.userAgent,
        });
        const { connection, head } = await exchange(machine, port, pathOf(url), {
          method: "GET", headers, signal: this.#controller.signal,
        });
        this.#connection = connection;
        const wanted = encode(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
        const sum = btoa(latin(new Uint8Array(await crypto.subtle.digest("SHA-1", wanted))));
        const { status, statusText } = head;
        connection.report("server", "response", connection.passage, { status, statusText });
        this.#controller.signal.throwIfAborted();
        if (head.status !== 101 || head.headers.get("sec-websocket-accept") !== sum)
          throw new TypeError(`the handshake failed with ${head.status}`);
        this.readyState = 1;
        this.dispatchEvent(new window.Event("open"));
        await this.#read();
        [code, reason] = this.#closing;
      } catch {
        if (this.#closing) [code, reason] = this.#closing;
        else if (!window.closed) this.dispatchEvent(new window.Event("error"));
      }
      this.#connection?.close("eof");
      this.readyState = 3;
      if (window.closed) return; // its frame was removed
      this.dispatchEvent(new window.CloseEvent("close", { code, reason, wasClean: code !== 1006 }));
    }

    async #read() {
      let kind;
      let parts = [];
      for (;;) {
        const [first, second] = await this.#connection.exactly(2);
        let length = second & 127;
        if (length > 125) {
          const size = await this.#connection.exactly(length === 126 ? 2 : 8);
          length = size.reduce((sum, byte) => sum * 256 + byte, 0);
        }
        const payload = await this.#connection.exactly(length);
        const opcode = first & 15;
        const { passage } = this.#connection;
        if (opcode > 7) this.#report("server", opcode, passage, payload);
        if (opcode === 9) this.#frame(10, payload);
        else if (opcode === 8) {
          const view = new DataView(payload.buffer);
          this.#closing = length < 2 ? [1005, ""]
            : [view.getUint16(0), new TextDecoder().decode(payload.subarray(2))];
          if (this.readyState < 2) this.#frame(8, payload);
          this.readyState = 2;
          return;
        } else if (opcode < 3) {
          if (opcode) kind = opcode;
          parts.push(payload);
          if (!(first & 128)) continue;
          const blob = new Blob(parts);
          this.#report("server", kind, passage, new Uint8Array(await blob.arrayBuffer()));
          parts = [];
          const data = kind === 1 ? await blob.text()
            : this.binaryType === "blob" ? blob : await blob.arrayBuffer();
          if (this.readyState === 1)
            this.dispatchEvent(new window.MessageEvent("message", { data, origin: new URL(this.url).origin }));
        }
      }
    }

    #frame(opcode, payload) {
      const size = payload.length;
      const long = size > 65535 ? 8 : size > 125 ? 2 : 0;
      const frame = new Uint8Array(6 + long + size);
      frame[0] = 128 | opcode;
      frame[1] = 128 | (long === 8 ? 127 : long ? 126 : size);
      if (long === 2) new DataView(frame.buffer).setUint16(2, size);
      if (long === 8) new DataView(frame.buffer).setBigUint64(2, BigInt(size));
      const mask = crypto.getRandomValues(frame.subarray(2 + long, 6 + long));
      payload.forEach((byte, at) => (frame[6 + long + at] = byte ^ mask[at % 4]));
      this.#report("client", opcode, this.#connection.send(frame), payload);
    }

    #report(from, opcode, passage, payload) {
      const kind = { 8: "close", 9: "ping", 10: "pong" }[opcode] ?? "message";
      let data = opcode === 2 ? undefined : decode(payload.subarray(0, KEPT));
      if (kind === "close")
        data = payload.length < 2 ? "" : `${payload[0] * 256 + payload[1]} ${decode(payload.subarray(2))}`.trim();
      this.#connection.report(from, kind, passage, { data });
    }

    send(data) {
      if (this.readyState === 0)
        throw new window.DOMException("Still in CONNECTING state.", "InvalidStateError");
      if (this.readyState > 1) return;
      if (typeof data === "string") this.#frame(1, encode(data));
      else this.#frame(2, new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength));
    }

    close(code, reason = "") {
      if (this.readyState > 1) return;
      const was = this.readyState;
      this.readyState = 2;
      if (!was) return this.#controller.abort();
      const words = encode(reason);
      const payload = new Uint8Array(code === undefined ? 0 : 2 + words.length);
      if (code !== undefined) {
        new DataView(payload.buffer).setUint16(0, code);
        payload.set(words, 2);
      }
      this.#frame(8, payload);
    }
  }

  Object.assign(window, { fetch, EventSource, WebSocket });
}
