# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""A server that accepts compressed messages and limits their size.

- Run: `uv run server_inflating.py`
- or: `pip install websockets==17.4 && python server_inflating.py`
- Source: compression, RFC 7692 §7; its risks, RFC 7692 §8
"""

import asyncio
import errno
import logging
import os
import signal
from contextlib import suppress

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def close_if_pipelined(connection, request):
    """Close a connection that carries more than the handshake.

    websockets 17.4 prints a traceback when it responds to one of two
    requests that arrive together.
    """
    if connection.protocol.close_expected():
        connection.transport.abort()
        await connection.wait_closed()


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
async def measure(websocket):
    """Respond to each message with its length."""
    with suppress(ConnectionClosed):  # it left, or exceeded the limit
        async for message in websocket:
            await websocket.send(f"{len(message)} bytes")


async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_error)
    for name in signal.SIGINT, signal.SIGTERM:
        loop.add_signal_handler(name, stop.set)
    async with serve(
        measure,
        "127.0.0.1",
        int(os.environ.get("PORT", 8000)),
        process_request=close_if_pipelined,
        max_size=1_000_000,  # bytes, after decompression
    ):
        await stop.wait()
# --8<-- [end:serve]


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    asyncio.run(main())
