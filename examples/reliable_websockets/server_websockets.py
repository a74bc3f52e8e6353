# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""The same stream of numbered events, by the websockets library.

It takes no POST: what a client sends on its socket is published, and
comes back with its number.

- Run: `uv run server_websockets.py`
- or: `pip install websockets==17.4 && python server_websockets.py`
- Source: close codes, RFC 6455 §7.4.1; compression, RFC 7692 §7.1.1
"""

import asyncio
import json
import logging
import os
import signal
from collections import deque
from itertools import islice
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

LOG = os.environ.get("LOG", "events.log")  # the file
KEEP = int(os.environ.get("KEEP", 1000))  # events in memory
TICK = float(os.environ.get("TICK", 1))  # s to an own event; 0: none
PING = float(os.environ.get("PING", 20))  # s between pings
PONG = float(os.environ.get("PONG", 20))  # s to wait for a pong
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # s of silence
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # s
MAX_CLIENTS = int(os.environ.get("MAX_CLIENTS", 1000))
# "deflate", or nothing: see what it costs
COMPRESSION = os.environ.get("COMPRESSION", "deflate") or None


class Gone(Exception):
    """The log does not reach back, or up, to the event asked for."""


class EventLog:
    """Numbered events: all of them in a file, the last in memory."""

    def __init__(self, path, keep):
        with open(path, "a+b") as file:  # creates it
            file.seek(0)
            self.events = deque(map(json.loads, file), maxlen=keep)
        # What os.write has written is the kernel's, and outlives this
        # process. To outlive a power cut it would take os.fsync, too.
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.last = self.events[-1]["id"] if self.events else 0
        self.news = asyncio.Event()

    def publish(self, text):
        """Append an event and wake those who wait; return it."""
        event = {"id": self.last + 1, "text": text}
        os.write(self.file, json.dumps(event).encode() + b"\n")
        self.events.append(event)
        self.last = event["id"]
        self.news.set()  # wakes everyone who waits now
        self.news = asyncio.Event()
        return event

    async def after(self, seen):
        """Yield the events after that id, and then those to come.

        Who has seen none, with the id 0, gets all that is in memory.
        None stands for HEARTBEAT seconds in which there was none. Gone
        is raised if the next one is not in memory any more.
        """
        while True:
            first = self.last - len(self.events) + 1
            seen = seen or first - 1
            if not first - 1 <= seen <= self.last:
                has = f"{first} to {self.last}" if self.last else "none"
                raise Gone(f"the log has {has}")
            new = list(islice(self.events, seen + 1 - first, None))
            for event in new:
                yield event
                seen = event["id"]
            if seen == self.last:
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await self.news.wait()
                except TimeoutError:
                    yield None


# --8<-- [start:stream]
async def stream(websocket):
    """Send what came after the id that the client saw, and stay.

    What the client sends is published.
    """
    query = parse_qs(urlsplit(websocket.request.path).query)
    after = query.get("after", [str(log.last)])[0]
    if not after.isdecimal():
        await websocket.close(1008, "after is the number of an event")
        return
    if len(clients) >= MAX_CLIENTS:
        await websocket.close(1013, "too many clients")
        return
    clients.add(websocket)
    # Nobody cancels this handler when its client goes: receiving ends,
    # and that ends the sending.
    sending = asyncio.create_task(send(websocket, int(after)))
    try:
        async for message in websocket:
            log.publish(json.loads(message)["text"])
    except (KeyError, TypeError, ValueError):
        await websocket.close(1008, 'send {"text": "…"}')
    except ConnectionClosed:
        pass
    finally:
        sending.cancel()
        clients.remove(websocket)


async def send(websocket, after):
    """Send events for as long as the client is there, and keeps up."""
    try:
        async for event in log.after(after):
            message = json.dumps(event or {"heartbeat": log.last})
            async with asyncio.timeout(SEND_TIMEOUT):
                await websocket.send(message)  # waits: buffers are full
    except Gone as gone:
        await websocket.close(4410, str(gone))
    except TimeoutError:
        # The client does not read, so close() would wait as well.
        websocket.transport.abort()
    except ConnectionClosed:
        pass
# --8<-- [end:stream]


async def tick():
    """Stand for whatever happens in the world."""
    while TICK:
        await asyncio.sleep(TICK)
        log.publish("tick")


# --8<-- [start:serve]
async def main():
    stop = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ticking = asyncio.create_task(tick())
    async with serve(
        stream,
        "127.0.0.1",
        int(os.environ.get("PORT", 8000)),
        compression=COMPRESSION,
        ping_interval=PING,
        ping_timeout=PONG,
        close_timeout=1,  # s; the dead answer no close
    ):
        await stop.wait()
    # On the way out, serve() has closed every socket with 1001.
    ticking.cancel()
# --8<-- [end:serve]


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    log, clients = EventLog(LOG, KEEP), set()
    asyncio.run(main())
