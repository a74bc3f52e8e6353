# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""One of several copies of a server behind a balancer.

Every answer says which copy it came from. A copy that is told to stop
drains first; no socket lives longer than MAX_AGE.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: three of them, with NAME=a PORT=8001, NAME=b PORT=8002 and
  NAME=c PORT=8003, behind haproxy.cfg or nginx.conf
- Source: close codes, RFC 6455 §7.4.1
"""

import asyncio
import os
import random
import re
import secrets

from sanic import BadRequest, Blueprint, NotFound, Sanic, json

# --8<-- [start:settings]
NAME = os.environ.get("NAME", "a")
MAX_WAIT = float(os.environ.get("MAX_WAIT", 25))  # s to hold a poll
MAX_AGE = float(os.environ.get("MAX_AGE", 3600))  # s of a socket's life
TICK = float(os.environ.get("TICK", 15))  # s between two events
# How a copy stops: it fails its health check and waits until that was
# noticed; then it closes its sockets, spread over a time.
NOTICE = float(os.environ.get("NOTICE", 3))  # s
SPREAD = float(os.environ.get("SPREAD", 5))  # s
# --8<-- [end:settings]

bp = Blueprint("load_balancing")
sockets = set()
jobs: dict[str, asyncio.Task] = {}
told = asyncio.Event()  # to stop
leaving = asyncio.Event()  # the balancer has had time to notice


# --8<-- [start:health]
@bp.get("/health")
async def health(request):
    """Tell the balancer whether to send anything new here."""
    return json(
        {"name": NAME, "sockets": len(sockets)},
        status=503 if told.is_set() else 200,
    )
# --8<-- [end:health]


# --8<-- [start:socket]
@bp.websocket("/socket")
async def socket(request, ws):
    """Say which copy this is, answer each message, and end in time.

    Ages differ, so that what came together does not leave together.
    """
    sockets.add(ws)
    try:
        async with asyncio.timeout(random.uniform(0.8, 1) * MAX_AGE):
            await ws.send(NAME)
            async for message in ws:
                await ws.send(f"{NAME}: {message}")
    except TimeoutError:
        await ws.close(1001, "old enough, come back")
    finally:
        sockets.discard(ws)
# --8<-- [end:socket]


# --8<-- [start:drain]
@bp.before_server_stop
async def drain(app):
    """Stop without losing anyone: Sanic still serves meanwhile."""
    told.set()  # the health check fails from now on
    await asyncio.sleep(NOTICE)
    leaving.set()  # held polls are answered, streams end
    await asyncio.gather(*map(dismiss, sockets))
    for job in jobs.values():
        job.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)


async def dismiss(ws):
    """Send a client elsewhere, not at the moment of all others."""
    await asyncio.sleep(random.uniform(0, SPREAD))
    await ws.close(1012, "this copy stops, come back")
# --8<-- [end:drain]


@bp.get("/events")
async def events(request):
    """Send an event now and then, until this copy leaves."""
    stream = await request.respond(content_type="text/event-stream")
    while not leaving.is_set():
        await stream.send(f"data: {NAME}\n\n")
        await hold(TICK)


async def hold(seconds, *tasks):
    """Wait so long, or for one of these, or until this copy leaves."""
    stop = asyncio.create_task(leaving.wait())
    try:
        await asyncio.wait(
            [stop, *tasks],
            timeout=seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        stop.cancel()


# --8<-- [start:jobs]
@bp.post("/jobs")
async def submit(request):
    """Start a job. It is known to this copy, and to no other."""
    token = secrets.token_urlsafe(16)
    jobs[token] = asyncio.create_task(asyncio.sleep(read(request.json)))
    answer = {"token": token, "status": "pending", "name": NAME}
    location = request.app.url_for("load_balancing.status", token=token)
    return json(answer, status=202, headers={"Location": location})


@bp.get("/jobs/<token>")
async def status(request, token):
    """Say how a job stands; with Prefer: wait=N, hold the question."""
    if token not in jobs:
        raise NotFound(f"{NAME} knows no job with this token")
    job, wait = jobs[token], preferred_wait(request)
    if wait:
        await hold(wait, job)
    done = job.done() and not job.cancelled()
    answer = {"token": token, "status": "done" if done else "pending"}
    return json(answer | {"name": NAME})
# --8<-- [end:jobs]


def read(body):
    """Return the seconds that a job takes; anything else is 400."""
    match body:
        case {"seconds": bool()}:  # in Python, True is an int
            pass
        case {"seconds": int() | float() as seconds}:
            if 0 <= seconds <= 60:
                return seconds
    raise BadRequest('send {"seconds": 0 to 60}')


def preferred_wait(request):
    """Return the N of `Prefer: wait=N`, at most MAX_WAIT, or 0."""
    found = re.search(
        r"(?i)\bwait\s*=\s*([0-9]+)", request.headers.get("Prefer", "")
    )
    return min(MAX_WAIT, float(found[1])) if found else 0


if __name__ == "__main__":
    app = Sanic("load_balancing")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    # --8<-- [start:timer]
    app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5  # s; above the hold
    # --8<-- [end:timer]
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
