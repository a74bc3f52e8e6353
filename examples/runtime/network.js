// The page's side of a network whose servers run in a worker: TCP connections as messages and, on
// top of them, HTTP/1.1 and WebSocket, offered as fetch, EventSource and WebSocket.

const encode = (text) => new TextEncoder().encode(text);
const latin = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");

/** One direction of the network: it delivers in order, after a delay, and nothing while it is
    frozen. */
class Direction {
  #delay = 0;
  #isFrozen = false;
  #waiting = []; // {due, deliver}
  #timer;

  set(delay, isFrozen) {
    this.#delay = delay;
    this.#isFrozen = isFrozen;
    this.#deliver();
  }

  carry(deliver) {
    this.#waiting.push({ due: performance.now() + this.#delay, deliver });
    this.#deliver();
  }

  #deliver() {
    clearTimeout(this.#timer);
    while (this.#waiting.length && !this.#isFrozen) {
      const left = this.#waiting[0].due - performance.now();
      if (left > 0) {
        this.#timer = setTimeout(() => this.#deliver(), left);
        return;
      }
      this.#waiting.shift().deliver();
    }
  }
}

/** The worker that runs a program, and the network between the page and it. */
export class Machine extends EventTarget {
  #url;
  #worker;
  #up = new Direction();
  #down = new Direction();
  #ports = new Set(); // at which the program listens
  #connections = new Map();
  #nextConnection = 1;
  #number = 0;
  idle = []; // connections that can carry another request
  traffic = { connections: 0, up: 0, down: 0 }; // opened; bytes sent and received

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
    this.#hangUp();
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
    if ("id" in data) {
      this.#down.carry(() => this.#pass(data));
      return;
    }
    if (data.type === "listening") this.#ports.add(data.port);
    if (data.type === "exit") this.#hangUp();
    this.dispatchEvent(new CustomEvent(data.type, { detail: data }));
  }

  /** Passes what has arrived to its connection. */
  #pass(data) {
    const connection = this.#connections.get(data.id);
    if (data.type === "data") this.traffic.down += data.bytes.length;
    else this.#connections.delete(data.id);
    connection?.receive(data);
  }

  /** Sends a message of a connection to the program. */
  post(message) {
    if (message.type === "data") this.traffic.up += message.bytes.length;
    this.#up.carry(() => this.#worker.postMessage(message));
  }

  connect(port) {
    const connection = new Connection(this, this.#nextConnection++);
    const { id } = connection;
    this.#connections.set(id, connection);
    this.traffic.connections += 1;
    this.#up.carry(() => {
      if (this.#ports.has(port)) this.#worker.postMessage({ type: "connect", id, port });
      else this.#down.carry(() => this.#pass({ type: "refused", id }));
    });
    return connection;
  }

  forget(id) {
    this.#connections.delete(id);
  }

  /** Runs files[name]; returns the number of the run, which its `exit` event carries. */
  run({ folder, name, files, environment = {} }) {
    this.#hangUp();
    this.#number += 1;
    const number = this.#number;
    this.#worker.postMessage({ type: "run", folder, name, files, environment, number });
    return number;
  }

  signal(number) {
    this.#worker.postMessage({ type: "signal", number });
  }

  /** Ends the program as SIGKILL does: its connections are reset. */
  kill() {
    this.#worker.postMessage({ type: "kill" });
    this.#hangUp();
  }

  /** Makes the network slow, in milliseconds for each direction, or lets nothing arrive: what is
      sent while it is frozen is retransmitted when it no longer is. */
  disturb({ delay = 0, isFrozen = false }) {
    this.#up.set(delay, isFrozen);
    this.#down.set(delay, isFrozen);
  }

  /** Resets the connections on both sides, at once. */
  cut() {
    for (const { id } of this.#connections.values()) {
      this.#worker.postMessage({ type: "reset", id });
      this.#pass({ type: "reset", id });
    }
    this.idle = [];
  }

  /** Resets the connections of a program that has ended, when the client can receive that. */
  #hangUp() {
    this.#ports.clear();
    const ids = [...this.#connections.keys()];
    this.#down.carry(() => {
      for (const id of ids) this.#pass({ type: "reset", id });
      this.idle = this.idle.filter(({ open }) => open);
    });
  }
}

/** The client's side of a TCP connection. */
class Connection {
  open = true;
  #buffer = new Uint8Array(0);
  #ended;
  #wake;

  constructor(machine, id) {
    this.machine = machine;
    this.id = id;
  }

  receive({ type, bytes }) {
    if (type === "data") {
      const joined = new Uint8Array(this.#buffer.length + bytes.length);
      joined.set(this.#buffer);
      joined.set(bytes, this.#buffer.length);
      this.#buffer = joined;
    } else {
      this.open = false;
      this.#ended = type;
    }
    this.#wake?.();
  }

  send(bytes) {
    if (this.open) this.machine.post({ type: "data", id: this.id, bytes });
  }

  close(type = "reset") {
    if (!this.open) return;
    this.receive({ type });
    this.machine.forget(this.id);
    this.machine.post({ type, id: this.id });
  }

  /** Returns the bytes that have arrived, at least one; none at the end of the stream. */
  async some() {
    while (!this.#buffer.length && !this.#ended)
      await new Promise((resolve) => (this.#wake = resolve));
    const bytes = this.#buffer;
    if (!bytes.length && this.#ended !== "close" && this.#ended !== "eof")
      throw new TypeError(`connection ${this.#ended}`);
    this.#buffer = new Uint8Array(0);
    if (bytes.length) this.machine.post({ type: "read", id: this.id, count: bytes.length });
    return bytes;
  }

  unread(bytes) {
    const joined = new Uint8Array(bytes.length + this.#buffer.length);
    joined.set(bytes);
    joined.set(this.#buffer, bytes.length);
    this.#buffer = joined;
    if (bytes.length) this.machine.post({ type: "read", id: this.id, count: -bytes.length });
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
export async function* readBody(connection, { status, headers }, method) {
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
    connection.port = port;
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
      connection.send(all);
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
    serves on `port`. */
export function patch(window, machine, base, port) {
  const ours = (url) => url.href.startsWith(base.href);
  const pathOf = (url) =>
    `/${url.href.slice(base.href.length).replace(/^\//, "").replace(/#.*/, "")}`;
  const realFetch = window.fetch.bind(window);

  async function fetch(resource, options = {}) {
    const request = new window.Request(resource, options);
    const url = new URL(request.url);
    if (!ours(url)) return realFetch(resource, options);
    const { signal, method } = request;
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
    });
    const empty = [204, 205, 304].includes(head.status);
    if (empty) done((await pieces.next()).value);
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
    #closing; // code and reason of the close frame that was received

    constructor(address) {
      const url = new URL(address, window.document.baseURI);
      const http = new URL(url.href.replace(/^ws/, "http"));
      if (!ours(http)) return new RealWebSocket(address);
      super();
      this.url = url.href.replace(/^http/, "ws");
      for (const type of ["open", "message", "error", "close"])
        this.addEventListener(type, (event) => this[`on${type}`]?.(event));
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
          method: "GET", headers,
        });
        this.#connection = connection;
        const wanted = encode(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
        const sum = btoa(latin(new Uint8Array(await crypto.subtle.digest("SHA-1", wanted))));
        if (head.status !== 101 || head.headers.get("sec-websocket-accept") !== sum)
          throw new TypeError(`the handshake failed with ${head.status}`);
        this.readyState = 1;
        this.dispatchEvent(new window.Event("open"));
        await this.#read();
        [code, reason] = this.#closing;
      } catch {
        if (this.#closing) [code, reason] = this.#closing;
        else this.dispatchEvent(new window.Event("error"));
      }
      this.#connection?.close("eof");
      this.readyState = 3;
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
      this.#connection.send(frame);
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
      if (!was) return this.#connection?.close();
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
