# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: a handler that blocks the event loop.

While one client's job is worked on, no client's ping is answered and
no pong is read: others, in the best of health, are closed with 1011.

- Run: `uv run wrong_server_blocking.py`
- or: `pip install websockets==17.4 && python wrong_server_blocking.py`
- Source: 1011, RFC 6455 §7.4.1; blocking code in asyncio,
  https://docs.python.org/3/library/asyncio-dev.html#running-blocking-code
"""

import asyncio
import json
import logging
import os
import signal
import time
from contextlib import suppress

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

PING = float(os.environ.get("PING", 20))  # s between pings
PONG = float(os.environ.get("PONG", 20))  # s to wait for a pong


# --8<-- [start:work]
async def work(websocket):
    """Answer each {"seconds": …} after as long; to others, be there."""
    await websocket.send('{"id": 1, "text": "welcome"}')
    with suppress(ConnectionClosed):
        async for message in websocket:
            seconds = json.loads(message)["seconds"]
            time.sleep(seconds)  # right: await asyncio.to_thread(…)
            await websocket.send('{"id": 2, "text": "done"}')
# --8<-- [end:work]


async def main():
    stop = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    port = int(os.environ.get("PORT", 8000))
    async with serve(
        work,
        "127.0.0.1",
        port,
        ping_interval=PING,
        ping_timeout=PONG,
    ):
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    asyncio.run(main())
