# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Send events over WebSockets, and accept orders.

The response to the first order is lost, as an experiment.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: restart it while clients are connected
- Source: close codes, RFC 6455 §7.4.1
"""

import asyncio
import json
import os
import time
from uuid import uuid4

from sanic import Blueprint, Sanic
from sanic import json as json_response
from sanic.exceptions import WebsocketClosed

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
EVENT_INTERVAL = float(os.environ.get("EVENT_INTERVAL", 1))  # s
MAX_EVENTS = int(os.environ.get("MAX_EVENTS", 1000))  # to resume
LOST_RESPONSES = int(os.environ.get("LOST_RESPONSES", 1))

bp = Blueprint("reconnecting", strict_slashes=True)
websockets = set()
orders: dict[str, int] = {}  # Idempotency-Key: number


# --8<-- [start:events]
@bp.websocket("/events")
async def send_events(request, ws):
    """Send each event, beginning after the id in the query.

    Event N happens N * EVENT_INTERVAL seconds after 1970, and stands
    for one in a database: a restart of the server loses none.
    """
    latest = round(time.time() / EVENT_INTERVAL)
    after = request.args.get("after", str(latest))
    if after == "0":  # the oldest that is kept
        after = str(latest - MAX_EVENTS)
    if after not in map(str, range(latest - MAX_EVENTS, latest + 1)):
        await ws.close(4410, "no events after this id")
        return
    websockets.add(ws)
    receiving = asyncio.create_task(drop_messages(ws))
    try:
        while True:
            after = int(after) + 1
            await asyncio.sleep(after * EVENT_INTERVAL - time.time())
            await ws.send(json.dumps({"id": after, "text": "tick"}))
    except WebsocketClosed:
        pass  # raised by send() after a disconnect
    finally:
        websockets.discard(ws)
        receiving.cancel()


async def drop_messages(ws):
    """Receive and ignore: an unread message would block the pongs."""
    async for _ in ws:
        pass


@bp.before_server_stop
async def close_websockets(app):
    """Close with 1012, service restart: clients reconnect."""
    await asyncio.gather(*(ws.close(1012) for ws in set(websockets)))
# --8<-- [end:events]


# --8<-- [start:orders]
@bp.post("/orders")
async def create_order(request):
    """Create an order, or return the one that has this key."""
    key = request.headers.get("Idempotency-Key") or uuid4().hex
    if key not in orders:
        orders[key] = len(orders) + 1
        if len(orders) <= LOST_RESPONSES:
            request.transport.abort()  # it exists, without a response
    return json_response({"order": orders[key]}, status=201)


@bp.get("/orders")
async def count_orders(request):
    """Return how many orders there are."""
    return json_response({"orders": len(orders)})
# --8<-- [end:orders]


if __name__ == "__main__":
    app = Sanic("reconnecting")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
