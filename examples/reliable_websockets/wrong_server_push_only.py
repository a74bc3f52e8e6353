# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: a Sanic handler that only sends.

The first message that a client sends is never read, and so neither are
the pongs behind it: the client, in the best of health, is closed with
1011 as soon as a ping was not answered.

- Run: `uv run wrong_server_push_only.py`
- or: `pip install sanic==25.12.1 && python wrong_server_push_only.py`
- Source: 1011, RFC 6455 §7.4.1; pongs, RFC 6455 §5.5.3
"""

import asyncio
import json
import os
from itertools import count

from sanic import Blueprint, Sanic

TICK = float(os.environ.get("TICK", 1))  # s to an event
PING = float(os.environ.get("PING", 20))  # s between pings
PONG = float(os.environ.get("PONG", 20))  # s to wait for a pong

bp = Blueprint("websocket_push_only")


# --8<-- [start:stream]
@bp.websocket("/events")
async def stream(request, ws):
    """Send an event now and then, and never call ws.recv()."""
    for number in count(1):
        await ws.send(json.dumps({"id": number, "text": "tick"}))
        await asyncio.sleep(TICK)
# --8<-- [end:stream]


if __name__ == "__main__":
    app = Sanic("websocket_push_only")
    app.config.WEBSOCKET_PING_INTERVAL = PING
    app.config.WEBSOCKET_PING_TIMEOUT = PONG
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
