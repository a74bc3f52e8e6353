# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Holds clients in three ways, and no more of them than it can.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: FILES=300 in front of it, and client.py
- Needs: Linux or macOS, for the limit on open files
- Source: 503 and Retry-After, RFC 9110 §15.6.4;
  1013, https://www.iana.org/assignments/websocket/websocket.xhtml
"""

import asyncio
import os
import random
import resource

from sanic import Blueprint, Sanic, json
from sanic.exceptions import ServiceUnavailable

# --8<-- [start:limits]
FILES = int(os.environ.get("FILES", 10_000))  # open ones, to ask for
# Of them: our own, and those of clients that are to be refused, of
# which many may come at once.
SPARE = int(os.environ.get("SPARE", 150))


def allow(files):
    """Let this process have so many files, or as many as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


MAX_HELD = allow(FILES) - SPARE
# --8<-- [end:limits]

bp = Blueprint("holding_connections")
held = set()  # one future for each client


# --8<-- [start:hold]
def full():
    return len(held) >= MAX_HELD


async def hold():
    """Wait for the release."""
    waiting = asyncio.get_running_loop().create_future()
    held.add(waiting)
    try:
        await waiting
    finally:  # also if the client left
        held.discard(waiting)


def answer_all():
    """Wake everyone who is held; return how many that were."""
    for waiting in held:
        if not waiting.done():
            waiting.set_result(None)
    return len(held)


def refuse_if_full(request):
    """Say 503, and when to come back: not all at the same time."""
    if full():
        request.stream.keep_alive = False  # its file is needed
        raise ServiceUnavailable(
            "too many clients are held here",
            headers={"Retry-After": str(random.randint(5, 15))},
        )
# --8<-- [end:hold]


# --8<-- [start:ways]
@bp.get("/poll")
async def poll(request):
    """Hold a question."""
    refuse_if_full(request)
    await hold()
    return json({"status": "done"})


@bp.get("/stream")
async def stream(request):
    """Hold an event stream."""
    refuse_if_full(request)
    response = await request.respond(content_type="text/event-stream")
    await response.send(": held\n\n")
    await hold()
    await response.send("data: done\n\n")


@bp.websocket("/socket")
async def socket(request, ws):
    """Hold a WebSocket."""
    if full():
        await ws.close(1013, "too many clients are held here")
        return
    await hold()
    await ws.send("done")
# --8<-- [end:ways]


@bp.post("/release")
async def release(request):
    """Answer everyone; say how many that were."""
    return json({"released": answer_all()})


@bp.get("/held")
async def count(request):
    """Say how many are held, and how many may be."""
    return json({"held": len(held), "at most": MAX_HELD})


@bp.before_server_stop
async def stop(app):
    """Let nobody wait for a server that ends."""
    answer_all()


if __name__ == "__main__":
    app = Sanic("holding_connections")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.RESPONSE_TIMEOUT = 3600  # s; a hold is no failure here
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
