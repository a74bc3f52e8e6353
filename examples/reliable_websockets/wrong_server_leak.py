# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: a handler that cleans up only after an Exception.

When a client leaves, Sanic cancels the handler, and CancelledError is
no Exception: each client that ever was here still counts.

- Run: `uv run wrong_server_leak.py`
- or: `pip install sanic==25.12.1 && python wrong_server_leak.py`
- Source: CancelledError,
  https://docs.python.org/3/library/asyncio-exceptions.html
"""

import json
import os

from sanic import Blueprint, Sanic

MAX_CLIENTS = int(os.environ.get("MAX_CLIENTS", 3))

bp = Blueprint("websocket_leak")
clients = set()


# --8<-- [start:stream]
@bp.websocket("/events")
async def stream(request, ws):
    """Welcome a client, and remember it for as long as it is here."""
    if len(clients) >= MAX_CLIENTS:
        await ws.close(1013, "too many clients")
        return
    clients.add(ws)
    try:
        await ws.send(json.dumps({"id": 1, "text": "welcome"}))
        async for _ in ws:
            pass
    except Exception:
        clients.remove(ws)
# --8<-- [end:stream]


if __name__ == "__main__":
    app = Sanic("websocket_leak")
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
