# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Holds WebSockets, and refuses one too many in the handshake.

- Run: `uv run server_websockets.py`
- or: `pip install websockets==17.4 && python server_websockets.py`
- Needs: Linux or macOS, for the limit on open files
- Source: a server may answer a handshake with any status,
  RFC 6455 §4.2.2; 503 and Retry-After, RFC 9110 §15.6.4
"""

import asyncio
import logging
import os
import random
import resource
import signal

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

FILES = int(os.environ.get("FILES", 10_000))  # open ones, to ask for
# Of them: our own, and those of clients that are to be refused, of
# which many may come at once.
SPARE = int(os.environ.get("SPARE", 150))
COMPRESSION = os.environ.get("COMPRESSION", "deflate") or None


def allow(files):
    """Let this process have so many files, or as many as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


MAX_HELD = allow(FILES) - SPARE
held = set()


# --8<-- [start:refuse]
def refuse_if_full(connection, request):
    """Answer the handshake with a 503; None goes on with it."""
    if len(held) < MAX_HELD:
        held.add(connection)
        return None
    response = connection.respond(503, "too many clients are held\n")
    response.headers["Retry-After"] = str(random.randint(5, 15))
    return response
# --8<-- [end:refuse]


# --8<-- [start:hold]
async def hold(websocket):
    """Wait for the release, which any client may ask for."""
    try:
        async for message in websocket:
            if message == "release":
                await asyncio.gather(
                    *(each.send("done") for each in held),
                    return_exceptions=True,  # some may be gone
                )
    except ConnectionClosed:
        pass
    finally:
        held.discard(websocket)
# --8<-- [end:hold]


async def main():
    stop = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(
        hold,
        "127.0.0.1",
        int(os.environ.get("PORT", 8000)),
        process_request=refuse_if_full,
        compression=COMPRESSION,
        close_timeout=1,  # s; the dead answer no close
    ):
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    asyncio.run(main())
