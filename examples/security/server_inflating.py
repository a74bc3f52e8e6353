# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""A server that takes compressed messages, and bounds what comes out.

- Run: `uv run server_inflating.py`
- or: `pip install websockets==17.4 && python server_inflating.py`
- Source: compression, RFC 7692 §7; its dangers, RFC 7692 §8
"""

import asyncio
import logging
import os
import signal
from contextlib import suppress

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


# --8<-- [start:serve]
async def count(websocket):
    """Tell how long each message is."""
    with suppress(ConnectionClosed):  # gone, or sent too much
        async for message in websocket:
            await websocket.send(f"{len(message)} bytes")


async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in signal.SIGINT, signal.SIGTERM:
        loop.add_signal_handler(name, stop.set)
    async with serve(
        count,
        "127.0.0.1",
        int(os.environ.get("PORT", 8000)),
        max_size=1_000_000,  # bytes, of the message as it comes out
    ):
        await stop.wait()
# --8<-- [end:serve]


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    asyncio.run(main())
