"""The tap of examples/tools/, run by a test: it records what passes, and a test may interfere.

    with Tap(server.port) as tap:
        run_client(url=tap.url)
    tap.events                  # what passed, in order
    tap.connections             # how many connections were opened

It runs in a thread of its own.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import CompletedProcess
from time import monotonic
from typing import NamedTuple

from examples.tools import tap

SIDES = {">": "client", "<": "server"}


@dataclass(frozen=True)
class Event:
    """Something seen on the wire."""

    at: float  # seconds since the tap was opened
    connection: int  # 1, 2, 3 … in the order in which they were opened
    source: str  # "client" or "server"
    kind: str  # "data", "end" (of stream) or "reset"
    data: bytes = b""


class Tap(tap.Tap):
    def __init__(self, target, port=0, on_data=None):
        """Listen on `port` and relay to port `target`, both on 127.0.0.1.

        `on_data(event)`, if given, may return False: then the bytes are seen and not
        forwarded, and both sides get a reset. That is how a proof loses a response. It may also
        return Cut(n): then the first n of these bytes are forwarded, and the connection ends.
        If it is a coroutine function, that direction waits for it, and the other continues.
        """
        super().__init__(tap.parse_options([f"--to=127.0.0.1:{target}", "--from=both"]))
        self.port, self.events = port, []
        self._on_data = on_data
        self._changed = threading.Condition()

    def __enter__(self):
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
        await self.listen()
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        started.set()
        await self._stop.wait()
        self.server.close()
        await self.cut_all()

    # This records what tap.py prints; a test sets what to disturb.

    def report(self, number, mark, data):
        kind = "reset" if data is None else "data" if data else "end"
        event = Event(monotonic() - self.start, number, SIDES[mark], kind, data or b"")
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    async def disturb(self, number, mark, data, writer):
        event = self.events[-1]  # nothing has run since that was reported
        verdict = self._on_data(event) if data and self._on_data else None
        if inspect.isawaitable(verdict):
            verdict = await verdict
        if verdict is False:
            raise ConnectionResetError
        if isinstance(verdict, Cut):
            tap.forward(writer, data[: verdict.length])
            raise ConnectionAbortedError
        tap.forward(writer, data)

    # Reading

    def wait_until(self, condition, patience=30):
        """Return once `condition(events)` holds; it is tried after each event."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.events), patience), self.events

    @property
    def connections(self):
        return max((event.connection for event in self.events), default=0)

    def bytes(self, source):
        """Return how many bytes of payload that side sent, over all connections."""
        return sum(len(event.data) for event in self.events if event.source == source)


@dataclass
class Cut:
    """The connection is to end after so many bytes of what just came."""

    length: int


class Run(NamedTuple):
    """A client that runs beside the proofs: the wire it talks over, and how it ended."""

    wire: Tap
    result: Callable[[], CompletedProcess]  # waits for the end
