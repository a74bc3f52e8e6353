# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A shop that loses answers, and lets in only so many a second.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: restart it while clients are connected
- Source: 503 and Retry-After, RFC 9110 §15.6.4
"""

import asyncio
import json
import math
import os
import time

from sanic import Blueprint, Sanic
from sanic import json as json_response
from sanic.exceptions import ServiceUnavailable

RATE = float(os.environ.get("RATE", 50))  # arrivals a second
LOSE = int(os.environ.get("LOSE", 1))  # answers to orders, at first
TICK = float(os.environ.get("TICK", 1))  # s between events

bp = Blueprint("reconnecting")


# --8<-- [start:gate]
class Gate:
    """Lets in so many a second, and tells the others when to come."""

    def __init__(self, rate):
        self.rate = rate
        self.room = self.most = max(1, rate)
        self.seen = self.promised = 0.0

    def retry_after(self, now):
        """Return 0 for who may come in, or a time to wait, in s."""
        grown = (now - self.seen) * self.rate
        self.room, self.seen = min(self.most, self.room + grown), now
        if self.room >= 1:
            self.room -= 1
            return 0
        # Each one later than the one before, at the rate we can take.
        self.promised = max(self.promised, now) + 1 / self.rate
        return math.ceil(self.promised - now)


gate = Gate(RATE)


@bp.on_request
async def admit(request):
    """Refuse before there is anything to refuse, a handshake too."""
    if later := gate.retry_after(time.monotonic()):
        raise ServiceUnavailable(
            "too many at once", headers={"Retry-After": str(later)}
        )
# --8<-- [end:gate]


# --8<-- [start:orders]
orders = []
answers = {}  # by Idempotency-Key


@bp.post("/orders")
async def place(request):
    """Place an order; the same order, if the key was here before."""
    key = request.headers.get("Idempotency-Key")
    if key is None or key not in answers:
        orders.append(key)
        answer = {"order": len(orders)}
        if key:
            answers[key] = answer
        if len(orders) <= LOSE:
            # It is done, and nobody is told.
            request.transport.abort()
            return json_response(None)
    else:
        answer = answers[key]
    return json_response(answer, status=201)


@bp.get("/orders")
async def count(request):
    """Say how many orders were placed."""
    return json_response({"orders": len(orders)})
# --8<-- [end:orders]


# --8<-- [start:events]
@bp.websocket("/events")
async def events(request, ws):
    """Say something each TICK, and goodbye when the server stops."""
    receiving = asyncio.create_task(receive(ws))
    try:
        while True:
            await ws.send(json.dumps({"text": "tick"}))
            await asyncio.sleep(TICK)
    except asyncio.CancelledError:
        # The client is gone already, or else we are about to be.
        await ws.close(1012, "the server restarts")
        raise
    finally:
        receiving.cancel()


async def receive(ws):
    """Read what clients send, so that their pongs are seen."""
    async for _ in ws:
        pass
# --8<-- [end:events]


@bp.after_server_stop
async def settle(app):
    """Let what was cancelled, Sanic's pings too, come to its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


if __name__ == "__main__":
    app = Sanic("reconnecting")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
