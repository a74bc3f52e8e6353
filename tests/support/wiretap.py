"""A relay between a real client and a real server that sees every byte and changes none.

    with Tap(server.port) as tap:
        run_client(url=tap.url)
    tap.events                  # what passed, in order
    tap.connections             # how many connections were opened

Bytes are forwarded as they come and in the order they came; an end of stream (half-close) and
a reset are passed on as what they are. The relay runs in a thread of its own.
"""

import asyncio
import inspect
import socket
import struct
import threading
from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True)
class Event:
    """Something seen on the wire."""

    at: float  # seconds since the tap was opened
    connection: int  # 1, 2, 3 … in the order in which they were opened
    source: str  # "client" or "server"
    kind: str  # "data", "end" (of stream) or "reset"
    data: bytes = b""


class Tap:
    def __init__(self, target, port=0, on_data=None):
        """Listen on `port` and relay to port `target`, both on 127.0.0.1.

        `on_data(event)`, if given, may answer False: then the bytes are seen and not
        forwarded, and both sides get a reset. That is how a proof loses an answer. It may also
        answer Cut(n): then the first n of these bytes are forwarded, and the connection ends.
        If it is a coroutine function, that direction waits for it, and the other goes on.
        """
        self.events = []
        self._target, self._port, self._on_data = target, port, on_data
        self._news = threading.Condition()
        self._tasks = set()

    # Starting and stopping

    def __enter__(self):
        self._start = monotonic()
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            listener.listen(1024)
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"
            accepting = asyncio.create_task(self._accept(listener))
            started.set()
            await self._stop.wait()
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Relaying

    async def _accept(self, listener):
        number = 0
        while True:
            client, _ = await self._loop.sock_accept(listener)
            number += 1
            task = asyncio.create_task(self._relay(number, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, number, client):
        server = socket.socket()
        with client, server:
            for each in client, server:
                each.setblocking(False)
                # Small writes go out as they came, not gathered.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await self._loop.sock_connect(server, ("127.0.0.1", self._target))
            except OSError:  # nobody listens at the target
                self._note(number, "server", "reset")
                reset(client)
                return
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(number, "client", client, server))
                    both.create_task(self._pump(number, "server", server, client))
            except* Reset:
                reset(client)
                reset(server)
            except* Cut:
                pass  # both are closed now

    async def _pump(self, number, source, reader, writer):
        other = "server" if source == "client" else "client"
        while True:
            try:
                data = await self._loop.sock_recv(reader, 65536)
            except OSError:
                self._note(number, source, "reset")
                raise Reset from None
            event = self._note(number, source, "data" if data else "end", data)
            verdict = self._on_data(event) if data and self._on_data else None
            if inspect.isawaitable(verdict):
                verdict = await verdict
            if verdict is False:
                raise Reset
            try:
                if isinstance(verdict, Cut):
                    await self._loop.sock_sendall(writer, data[: verdict.length])
                    raise verdict
                if not data:
                    writer.shutdown(socket.SHUT_WR)
                    return
                await self._loop.sock_sendall(writer, data)
            except OSError:
                self._note(number, other, "reset")
                raise Reset from None

    # Reading

    def _note(self, number, source, kind, data=b""):
        event = Event(monotonic() - self._start, number, source, kind, data)
        with self._news:
            self.events.append(event)
            self._news.notify_all()
        return event

    def wait_until(self, condition, patience=30):
        """Return once `condition(events)` holds; it is tried after each event."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self.events), patience), self.events

    @property
    def connections(self):
        return max((event.connection for event in self.events), default=0)

    def bytes(self, source):
        """Return how many bytes of payload that side sent, over all connections."""
        return sum(len(event.data) for event in self.events if event.source == source)


class Cut(Exception):
    """The connection is to end after so many bytes of what just came."""

    def __init__(self, length):
        self.length = length


class Reset(Exception):
    """One side reset the connection, so the other is to be reset as well."""


def reset(sock):
    """Close a socket with RST in place of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
