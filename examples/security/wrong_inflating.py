# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: accepts compressed messages of any size.

- Run: `uv run wrong_inflating.py`
- or: `pip install websockets==17.4 && python wrong_inflating.py`
- Source: server_inflating.py, which is right
"""

import asyncio
import logging
import os
import signal
from contextlib import suppress

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def measure(websocket):
    """Respond to each message with its length."""
    with suppress(ConnectionClosed):  # it left, or exceeded the limit
        async for message in websocket:
            await websocket.send(f"{len(message)} bytes")


async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in signal.SIGINT, signal.SIGTERM:
        loop.add_signal_handler(name, stop.set)
    async with serve(
        measure,
        "127.0.0.1",
        int(os.environ.get("PORT", 8000)),
        max_size=None,  # "messages are small"
    ):
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    asyncio.run(main())
