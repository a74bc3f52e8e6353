# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Hold WebSocket connections; reject above a limit by handshake.

- Run: `uv run server_websockets.py`
- or: `pip install websockets==17.4 && python server_websockets.py`
- Needs: Linux or macOS, for the limit on open files
- Source: a server may reject a handshake with a status,
  RFC 6455 §4.2.2; 503 and Retry-After, RFC 9110 §15.6.4
"""

import asyncio
import errno
import logging
import os
import random
import resource
import signal

from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
MAX_FILES = int(os.environ.get("MAX_FILES", 10_000))  # to request
# Descriptors for other uses: the program's own, and connections that
# are about to be rejected, of which many may arrive together.
SPARE_FILES = int(os.environ.get("SPARE_FILES", 150))
COMPRESSION = os.environ.get("COMPRESSION", "deflate") or None


def raise_file_limit(files):
    """Raise this process's limit on open files; return the result."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


MAX_HELD = raise_file_limit(MAX_FILES) - SPARE_FILES
held = set()


# --8<-- [start:reject]
def reject_if_full(connection, request):
    """Reject the handshake with 503 if the limit is reached."""
    if len(held) < MAX_HELD:
        return None
    # A client that does not close keeps its descriptor: close it.
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, connection.transport.close)
    response = connection.respond(503, "the limit is reached\n")
    response.headers["Retry-After"] = str(random.randint(5, 15))
    return response
# --8<-- [end:reject]


# --8<-- [start:hold]
async def hold(connection):
    """Hold a connection until any client sends "release"."""
    held.add(connection)
    try:
        async for message in connection:
            if message == "release":
                broadcast(held, "done")  # skips those that are closed
    except ConnectionClosed:
        pass
    finally:
        held.discard(connection)
# --8<-- [end:hold]


async def check_request(connection, request):
    """Reject a handshake that is one too many, or not alone.

    websockets 17.4 prints a traceback when it responds to one of two
    requests that arrive together.
    """
    if connection.protocol.close_expected():
        connection.transport.abort()
        await connection.wait_closed()
    return reject_if_full(connection, request)


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


async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_error)
    for number in signal.SIGINT, signal.SIGTERM:
        loop.add_signal_handler(number, stop.set)
    async with serve(
        hold,
        HOST,
        PORT,
        process_request=check_request,
        process_response=complete_rejection,
        compression=COMPRESSION,
        max_size=10_000,  # bytes; above it, 1009
        close_timeout=1,  # s; a dead client sends no close frame
    ):
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    asyncio.run(main())
