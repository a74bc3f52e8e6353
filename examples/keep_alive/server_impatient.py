# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A server whose idle timeout strikes at the worst moment, always.

The first request on a connection is answered. The second is carried
out, and then the connection is closed instead of an answer: so it
looks to a client whose request crossed the server's close.

- Run: `uv run server_impatient.py`
- or: `pip install sanic==25.12.1 && python server_impatient.py`
- Source: Closing while a request is on its way, RFC 9112 §9.5
"""

import os

from sanic import Blueprint, Sanic, json

bp = Blueprint("impatient")
orders: dict[str, int] = {}  # Idempotency-Key -> number
placed = 0


@bp.get("/")
async def count(request):
    """Say how many orders there are."""
    return json({"orders": placed})


# --8<-- [start:place]
@bp.post("/")
async def place(request):
    """Place an order, or find the one this request placed before."""
    global placed
    key = request.headers.get("Idempotency-Key")
    if key is None or key not in orders:
        placed += 1
        orders[key] = placed
    return json({"order": orders[key]}, status=201)
# --8<-- [end:place]


# --8<-- [start:close]
@bp.on_response
async def close(request, response):
    """Close in place of answering a connection's second request."""
    here = request.conn_info.ctx
    here.requests = getattr(here, "requests", 0) + 1
    if here.requests == 2:
        request.transport.close()
# --8<-- [end:close]


if __name__ == "__main__":
    app = Sanic("impatient")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
