# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: a handler that blocks the event loop.

This is server_websockets.py without the thread. While one message is
processed, the server sends no pong and reads none: connections
of other clients are closed with 1011.

- Run: `uv run wrong_server_blocking.py`
- or: `pip install websockets==17.4 && python wrong_server_blocking.py`
- Source: close codes, RFC 6455 §7.4.1; compression, RFC 7692 §7.1.1
"""

import asyncio
import errno
import json
import logging
import os
import re
import resource
import signal
import time
from collections import deque
from contextlib import suppress
from itertools import islice
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

LOG = os.environ.get("LOG", "events.log")  # path of the file
MAX_EVENTS = int(os.environ.get("MAX_EVENTS", 1000))  # in memory
# Seconds between events that the server publishes itself; 0: none
EVENT_INTERVAL = float(os.environ.get("EVENT_INTERVAL", 1))
PING_INTERVAL = float(os.environ.get("PING_INTERVAL", 20))  # s
PING_TIMEOUT = float(os.environ.get("PING_TIMEOUT", 20))  # s
HEARTBEAT_INTERVAL = float(os.environ.get("HEARTBEAT_INTERVAL", 15))
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # s
# Descriptors that clients cannot take: those of the log, of
# publishers, and of clients that are about to be rejected.
SPARE_FILES = 150
MAX_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
if MAX_FILES == resource.RLIM_INFINITY:
    MAX_FILES = 10_000
MAX_CONNECTIONS = int(
    os.environ.get("MAX_CONNECTIONS", MAX_FILES - SPARE_FILES)
)
# Seconds that filter_text() takes
FILTER_TIME = float(os.environ.get("FILTER_TIME", 0))
# "deflate", or "" for none: compression takes memory
COMPRESSION = os.environ.get("COMPRESSION", "deflate") or None


class ProtocolError(Exception):
    """A client sent something other than an event."""


class CursorExpired(Exception):
    """The event after which to resume is not in memory."""


class EventLog:
    """Numbered events: all of them in a file, the newest in memory."""

    def __init__(self, path, max_events):
        with open(path, "a+b") as file:  # creates it
            file.seek(0)
            events = map(json.loads, file)
            self.events = deque(events, maxlen=max_events)
        # After os.write the kernel has the event, so it survives the
        # end of this process. To survive a power cut, add os.fsync.
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.last = self.events[-1]["id"] if self.events else 0
        self.updated = asyncio.Event()

    def publish(self, text):
        """Append an event, wake all waiting tasks; return the event.

        Raises OSError if it cannot be stored: the disk is full.
        """
        event = {"id": self.last + 1, "text": text}
        line = json.dumps(event).encode() + b"\n"
        size = os.fstat(self.file).st_size
        if os.write(self.file, line) < len(line):  # a part of it
            os.ftruncate(self.file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.events.append(event)
        self.last = event["id"]
        self.updated.set()  # wakes all tasks that wait now
        self.updated = asyncio.Event()
        return event

    async def after(self, seen):
        """Yield the events after the id `seen`, then new ones.

        0 stands for a client that has seen no event: it gets all that
        are in memory. Yields None, for a heartbeat, after each
        HEARTBEAT_INTERVAL seconds without an event. Raises
        CursorExpired if the next event is not in memory.
        """
        seen = seen or self.last - len(self.events)
        while True:
            first = self.last - len(self.events) + 1
            if not first - 1 <= seen <= self.last:
                has = f"{first} to {self.last}" if self.last else "none"
                raise CursorExpired(f"the log has {has}")
            new = list(islice(self.events, seen + 1 - first, None))
            for event in new:
                yield event
                seen = event["id"]
            if seen == self.last:
                try:
                    async with asyncio.timeout(HEARTBEAT_INTERVAL):
                        await self.updated.wait()
                except TimeoutError:
                    yield None


# --8<-- [start:publish]
def parse_event(message):
    """Return the text of an event; reject anything else."""
    body = None
    with suppress(RecursionError, ValueError):
        body = json.loads(message)
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not text:
        raise ProtocolError('send {"text": "…"}')
    if re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", text):
        raise ProtocolError("a text has no control characters")
    return text


def filter_text(text):
    """Stand in for code that blocks, such as a spam filter."""
    time.sleep(FILTER_TIME)
    return text


async def publish_messages(websocket):
    """Publish what a client sends, until it disconnects."""
    try:
        async for message in websocket:
            text = parse_event(message)
            log.publish(filter_text(text))
    except ProtocolError as error:
        await websocket.close(1008, str(error))
    except OSError as error:
        await websocket.close(1011, f"not stored: {error.strerror}")
    except ConnectionClosed:
        pass
# --8<-- [end:publish]


# --8<-- [start:stream]
def parse_subscription(websocket):
    """Return the id after which to start; None if it is not one.

    Without an id, that is the newest: only new events are sent.
    """
    query = parse_qs(urlsplit(websocket.request.path).query)
    after = query.get("after", [str(log.last)])[0]
    return int(after) if re.fullmatch("[0-9]{1,15}", after) else None


async def stream(websocket):
    """Send the events after the id that the client has seen last."""
    after = parse_subscription(websocket)
    if after is None:
        await websocket.close(
            1008, "after is not the number of an event"
        )
        return
    if len(connections) >= MAX_CONNECTIONS:
        # A client that does not close keeps its descriptor: close it.
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, websocket.transport.close)
        await websocket.close(1013, "too many connections")
        return
    connections.add(websocket)
    # The library does not cancel this handler when the client
    # disconnects. Receiving ends then, and that ends the sending.
    sending = asyncio.create_task(send_events(websocket, after))
    try:
        await publish_messages(websocket)
    finally:
        sending.cancel()
        connections.remove(websocket)


async def send_events(websocket, after):
    """Send events until the client disconnects, or is too slow."""
    try:
        async for event in log.after(after):
            message = json.dumps(event or {"heartbeat": log.last})
            async with asyncio.timeout(SEND_TIMEOUT):
                await websocket.send(message)  # waits: buffers are full
    except CursorExpired as error:
        await websocket.close(4410, str(error))
    except TimeoutError:
        # A slow consumer: a close frame would wait behind the events.
        websocket.transport.abort()
    except ConnectionClosed:
        pass
# --8<-- [end:stream]


async def publish_ticks():
    """Stand in for events that happen elsewhere."""
    while EVENT_INTERVAL:
        await asyncio.sleep(EVENT_INTERVAL)
        with suppress(OSError):  # the disk is full
            log.publish("tick")


async def close_if_pipelined(connection, request):
    """Close a connection that carries more than the handshake.

    websockets 17.4 prints a traceback when it responds to one of two
    requests that arrive together.
    """
    if connection.protocol.close_expected():
        connection.transport.abort()
        await connection.wait_closed()


def complete_rejection(connection, request, response):
    """Name the version of the protocol, as RFC 6455 §4.4 demands."""
    if response.status_code == 400:
        response.headers["Sec-WebSocket-Version"] = "13"


def report_error(loop, context):
    """Log one line, without a traceback, if no descriptor is left.

    asyncio accepts clients again when others have left.
    """
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        logging.warning("cannot accept clients: %s", error.strerror)
    else:
        loop.default_exception_handler(context)


# --8<-- [start:serve]
async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_error)
    for number in signal.SIGINT, signal.SIGTERM:
        loop.add_signal_handler(number, stop.set)
    publishing = asyncio.create_task(publish_ticks())
    async with serve(
        stream,
        "127.0.0.1",
        int(os.environ.get("PORT", 8000)),
        process_request=close_if_pipelined,
        process_response=complete_rejection,
        compression=COMPRESSION,
        ping_interval=PING_INTERVAL,
        ping_timeout=PING_TIMEOUT,
        close_timeout=1,  # s; a dead client sends no Close
    ):
        await stop.wait()
    # serve() has closed every connection with 1001.
    publishing.cancel()
# --8<-- [end:serve]


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    log, connections = EventLog(LOG, MAX_EVENTS), set()
    asyncio.run(main())
