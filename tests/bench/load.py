"""The load generator: a process of its own that holds connections and sends requests.

It reads commands from stdin, a JSON object a line, and prints one line in response to each. Every
response states how much processor time the command took, so that the harness knows whether the
generator was saturated.
"""

import asyncio
import json
import re
import socket
import ssl
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import uvloop

HOST = "127.0.0.1"
LONGEST = 120  # seconds that a command may take
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
        self.load.connections.append(self)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        transport.write(self.request)

    def data_received(self, data):
        if self.held is None and self.kind == "poll":
            self.load.answered += 1
            return
        self.load.bytes += len(data)
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
            self.load.silent += data.count(b": heartbeat")
        elif not self.data and len(data) > 1 and data[0] == 0x81 and data[1] == len(data) - 2:
            self.load.receive(1)  # one short text message, as nearly always: no need to parse
        elif data:
            found, self.data = frames(self.data + data)
            for opcode, payload in found:
                if opcode == 9:
                    self.load.pings += 1
                    pong = frame(payload, 10)
                    self.transport.write(pong)
                    self.load.bytes += len(pong)
                elif opcode == 1:
                    self.load.receive(1)

    def connection_lost(self, exc):
        self.load.closed += 1
        if self.held and not self.held.done():
            self.held.set_exception(ConnectionError("closed during the handshake"))


class Load:
    """What the generator holds and has counted."""

    def __init__(self):
        self.connections, self.polls = [], []
        self.numbered = self.answered = self.closed = self.pings = self.received = 0
        self.wanted, self.all_received = 0, asyncio.Event()
        self.last = 0.0
        self.silent = self.bytes = 0  # heartbeats, and polls without an event; both directions

    def receive(self, messages):
        if messages:
            self.received += messages
            self.last = time.monotonic()
            if self.received >= self.wanted:
                self.all_received.set()

    async def open(self, kind, port, path, count, fields="", deflate=False):
        """Open more connections, and hold them; {n} in the path is the number of each."""
        if kind == "socket":
            fields += UPGRADE + (DEFLATE if deflate else "")
        turns = asyncio.Semaphore(OPENING)

        async def one():
            async with turns:
                self.numbered += 1
                sent = request(path.replace("{n}", str(self.numbered)), fields)
                loop = asyncio.get_running_loop()
                _, held = await loop.create_connection(lambda: Held(self, kind, sent), HOST, port)
                if held.held:
                    await held.held

        began = time.monotonic()
        async with asyncio.TaskGroup() as opening:  # one that fails cancels the others
            for _ in range(count):
                opening.create_task(one())
        return {"seconds": time.monotonic() - began}

    async def state(self):
        """Return what became of the connections."""
        opened = len(self.connections) - self.closed
        counts = {name: getattr(self, name) for name in ("answered", "pings", "silent", "bytes")}
        return {"open": opened} | counts

    async def wait(self, seconds):
        """Do nothing but respond to pings."""
        await asyncio.sleep(seconds)
        return {}

    async def stall(self, count):
        """Let some of the held connections read no more."""
        for held in self.connections[:count]:
            held.transport.pause_reading()
        return {}

    async def drop(self, count):
        """Close some of the held connections."""
        for held in self.connections[:count]:
            held.transport.abort()
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

    async def rate(self, port, path, connections, seconds):
        """Send requests over connections that are kept, the next one after each response."""
        end = time.monotonic() + seconds

        async def one():
            count = 0
            reader, writer = await asyncio.open_connection(HOST, port)
            while time.monotonic() < end:
                writer.write(request(path))
                await read_response(reader)
                count += 1
            writer.close()
            return count

        return {"count": sum(await asyncio.gather(*(one() for _ in range(connections))))}

    async def visits(self, port, path, connections, seconds, kind="plain"):
        """Open a connection for each request: plain, with TLS, TLS resumed, or as a WebSocket."""
        with ThreadPoolExecutor(connections) as threads:
            loop = asyncio.get_running_loop()
            ends = [
                loop.run_in_executor(threads, visit, port, path, seconds, kind)
                for _ in range(connections)
            ]
            counts = await asyncio.gather(*ends)
        return {"count": sum(count for count, _ in counts), "resumed": sum(n for _, n in counts)}

    async def jobs(self, technique, port, count, seconds, interval):
        """Let clients submit a job each, and receive its result by a technique.

        The jobs take between half of `seconds` and all of it, so that they do not end together.
        """
        clients = [
            Client(port, technique, seconds * (0.5 + 0.5 * number / count), interval)
            for number in range(count)
        ]
        await asyncio.gather(*(client.run(number / count) for number, client in enumerate(clients)))
        return {
            "requests": sum(client.requests for client in clients),
            "up": sum(client.up for client in clients),
            "down": sum(client.down for client in clients),
            "late": sorted(client.late for client in clients),
        }

    async def follow(self, technique, port, count, hold=25, interval=0):
        """Let clients follow a topic of notifications/server.py by a technique.

        Polls are held for `hold` seconds, and follow each other after `interval` seconds.
        """
        paths = {"poll": "", "stream": "/events", "socket": "/socket"}
        path = f"/notifications{paths[technique]}?topic=news&user=ada"
        if technique == "poll":
            polls = [self.poll_feed(port, path, hold, interval) for _ in range(count)]
            self.polls = [asyncio.create_task(poll) for poll in polls]
        else:
            await self.open(technique, port, path + "&after=0", count)
        return {}

    async def publish(self, port, rate, events, count):
        """Publish so many events a second, until all clients have received all of them."""
        self.received, self.wanted, self.bytes = 0, events * count, 0
        self.all_received.clear()
        reader, writer = await asyncio.open_connection(HOST, port)
        for number in range(events):
            began = time.monotonic()
            writer.write(request("/topics/news", method="POST", body=b'{"text": "an event"}'))
            assert (await read_response(reader))[0] == 201, number
            await asyncio.sleep(1 / rate - (time.monotonic() - began))
        if count:
            await asyncio.wait_for(self.all_received.wait(), 30)
        writer.close()
        return {"received": self.received, "bytes": self.bytes}

    async def poll_feed(self, port, path, hold, interval):
        """Send one poll after the other, each from the last event received."""
        reader, writer = await asyncio.open_connection(HOST, port)
        after, prefer = 0, f"Prefer: wait={hold}\r\n" if hold else ""
        while True:
            sent = request(f"{path}&after={after}", prefer)
            writer.write(sent)
            _, head, body = await read_response(reader)
            page = json.loads(body)
            after = page["after"]
            self.bytes += len(sent) + len(head) + len(body)
            self.silent += not page["notifications"]
            self.receive(len(page["notifications"]))
            await asyncio.sleep(interval)

    async def close(self):
        """End all connections, and count from nothing again."""
        for poll in self.polls:
            poll.cancel()
        for held in self.connections:
            held.transport.abort()
        while self.closed < len(self.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.__init__()
        return {}


class Client:
    """A client that submits a job and waits for its result; it counts what it sends and receives.

    `late` is the time between the end of the job and the result, in seconds. The job is taken to
    begin when the response to its submission arrives.
    """

    def __init__(self, port, technique, seconds, interval):
        self.port, self.technique = port, technique
        self.seconds, self.interval = seconds, interval
        self.requests = self.up = self.down = 0
        self.late = 0.0

    async def run(self, delay):
        await asyncio.sleep(delay)
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        self.job = json.dumps({"seconds": self.seconds}).encode()
        await getattr(self, self.technique)()
        self.late = time.monotonic() - self.end
        self.writer.close()

    def send(self, data):
        self.requests += 1
        self.up += len(data)
        self.writer.write(data)

    async def response(self):
        status, head, body = await read_response(self.reader)
        self.down += len(head) + len(body)
        assert status in (200, 202), head
        return json.loads(body)

    async def submit(self):
        self.send(request("/jobs", method="POST", body=self.job))
        token = (await self.response())["token"]
        self.end = time.monotonic() + self.seconds
        return token

    async def short_polling(self):
        sent = request(f"/jobs/{await self.submit()}")
        status = "pending"
        while status == "pending":
            await asyncio.sleep(self.interval)
            self.send(sent)
            status = (await self.response())["status"]

    async def long_polling(self):
        sent = request(f"/jobs/{await self.submit()}", "Prefer: wait=25\r\n")
        status = "pending"
        while status == "pending":
            self.send(sent)
            status = (await self.response())["status"]

    async def event_stream(self):
        self.send(request(f"/jobs/{await self.submit()}/events"))
        data = b""
        while b"event: done" not in data:
            data += await self.reader.read(4096)
        self.down += len(data)

    async def websocket(self):
        self.send(request("/jobs/socket", UPGRADE))
        self.down += len(await self.reader.readuntil(b"\r\n\r\n"))
        self.send(frame(b'{"id": 1, "submit": ' + self.job + b"}"))
        self.down += len(await self.reader.readuntil(b"}"))
        self.end = time.monotonic() + self.seconds
        self.down += len(await self.reader.readuntil(b"}"))


async def read_response(reader):
    """Read a response with its body; return status, fields and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return int(head[9:12]), head, body


def visit(port, path, seconds, kind):
    """Connect, send a request, read the response and close, again and again, in this thread."""
    sent = request(path, UPGRADE if kind == "socket" else "")
    context, session, count, resumed = None, None, 0, 0
    if kind in ("tls", "resumed"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.create_connection((HOST, port)) as sock:
            if context:
                sock = context.wrap_socket(sock, session=session)
            sock.sendall(sent)
            data = sock.recv(4096)
            assert data[9:12] in (b"200", b"101"), data
            if kind == "resumed":
                resumed += sock.session_reused
                session = sock.session
            if kind == "socket":
                sock.sendall(frame(b"\x03\xe8", 8))  # close, 1000
                while sock.recv(4096):
                    pass
            sock.close()
        count += 1
    return count, resumed


async def main():
    load, loop = Load(), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        name = command.pop("do")
        began, used = time.monotonic(), time.process_time()
        try:
            async with asyncio.timeout(LONGEST):
                result = await getattr(load, name)(**command)
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            result = {"error": f"{type(error).__name__}: {error}"}
        result["busy"] = (time.process_time() - used) / max(time.monotonic() - began, 1e-6)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
