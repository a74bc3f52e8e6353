"""The load generator: a process of its own that holds connections and sends requests.

It reads commands from stdin, a JSON object a line, and prints one line in response to each. Every
response says how much processor time the command took, so that the harness knows whether the
generator was saturated.
"""

import asyncio
import json
import re
import socket
import struct
import sys
import time

import uvloop

HOST = "127.0.0.1"
OPENING = 50  # connections at once, fewer than any backlog
LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, and leave nothing in TIME_WAIT


def request(path, fields="", method="GET", body=b""):
    """Return the bytes of a request."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{fields}{length}\r\n".encode() + body


def frame(payload, opcode=1):
    """Return a frame of a client, with a mask of zeros (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


def frames(data):
    """Split bytes of a server into frames: return [(opcode, payload)] and what is left over."""
    found = []
    while len(data) >= 2:
        start, size = 2, data[1]
        if size > 125:
            start, code = (4, "!H") if size == 126 else (10, "!Q")
            if len(data) < start:
                break
            (size,) = struct.unpack_from(code, data, 2)
        if len(data) < start + size:
            break
        found.append((data[0] & 15, data[start : start + size]))
        data = data[start + size :]
    return found, data


class Held(asyncio.Protocol):
    """One held connection: a poll, a stream or a WebSocket connection."""

    __slots__ = ("data", "held", "kind", "load", "request", "transport")

    def __init__(self, load, kind, request):
        self.load, self.kind, self.request, self.data = load, kind, request, b""
        self.held = None if kind == "poll" else asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        transport.write(self.request)

    def data_received(self, data):
        if self.held is None and self.kind == "poll":
            self.load.answered += 1
            return
        if self.held:
            self.data += data
            head, end, data = self.data.partition(b"\r\n\r\n")
            if not end:
                return
            if head.split()[1] not in (b"101", b"200"):
                self.held.set_exception(ConnectionError(head.split(b"\r\n")[0].decode()))
                return
            self.held.set_result(None)
            self.held, self.data = None, b""
        if self.kind == "stream":
            self.load.receive(data.count(b"data: "))
        elif data:
            found, self.data = frames(self.data + data)
            for opcode, payload in found:
                if opcode == 9:
                    self.load.pings += 1
                    self.transport.write(frame(payload, 10))
                elif opcode == 1:
                    self.load.receive(1)

    def connection_lost(self, exc):
        self.load.closed += 1
        if self.held and not self.held.done():
            self.held.set_exception(ConnectionError("closed during the handshake"))


class Load:
    """What the generator holds and has counted."""

    def __init__(self):
        self.connections = []
        self.answered = self.closed = self.pings = self.received = 0
        self.wanted, self.all_received = 0, asyncio.Event()
        self.last = 0.0

    def receive(self, messages):
        if messages:
            self.received += messages
            self.last = time.monotonic()
            if self.received >= self.wanted:
                self.all_received.set()

    async def open(self, kind, port, path, count, fields="", deflate=False):
        """Open more connections, and hold them."""
        if kind == "socket":
            fields += UPGRADE + (DEFLATE if deflate else "")
        turns = asyncio.Semaphore(OPENING)
        sent = request(path, fields)

        async def one():
            async with turns:
                loop = asyncio.get_running_loop()
                _, held = await loop.create_connection(lambda: Held(self, kind, sent), HOST, port)
                self.connections.append(held)
                if held.held:
                    await held.held

        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(count)))
        return {"seconds": time.monotonic() - began}

    async def state(self):
        """Return what became of the connections."""
        opened = len(self.connections) - self.closed
        return {"open": opened, "answered": self.answered, "pings": self.pings}

    async def stall(self, count):
        """Let some of the held connections read no more."""
        for held in self.connections[:count]:
            held.transport.pause_reading()
        return {}

    async def broadcast(self, port, path, body, count, times, in_band=False):
        """Publish a message `times` times; return the seconds until `count` clients had each.

        `in_band`: over the last held connection, for servers that have no other request.
        """
        seconds = []
        sent = frame(body.encode()) if in_band else request(path, "", "POST", body.encode())
        for _ in range(times):
            self.received, self.wanted = 0, count
            self.all_received.clear()
            began = time.monotonic()
            if in_band:
                self.connections[-1].transport.write(sent)
            else:
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(sent)
            await asyncio.wait_for(self.all_received.wait(), 60)
            seconds.append(self.last - began)
            if not in_band:
                assert (await reader.readline()).split()[1][:1] == b"2"
                writer.close()
        return {"seconds": seconds}

    async def close(self):
        """End all connections, and count from nothing again."""
        for held in self.connections:
            held.transport.abort()
        while self.closed < len(self.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.__init__()
        return {}


async def main():
    load, loop = Load(), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        name = command.pop("do")
        began, used = time.monotonic(), time.process_time()
        try:
            result = await getattr(load, name)(**command)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        result["busy"] = (time.process_time() - used) / max(time.monotonic() - began, 1e-6)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
