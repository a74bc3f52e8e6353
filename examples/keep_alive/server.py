# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A server that returns the number of the connection it is called on.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Source: Persistence, RFC 9112 §9.3
"""

import asyncio
import itertools
import os

from sanic import Blueprint, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))

bp = Blueprint("keep_alive")
connection_numbers = itertools.count(1)


# --8<-- [start:count]
@bp.get("/")
async def count(request):
    """Return the connection's number and its request count."""
    # Sanic keeps this object for as long as the connection is open.
    connection = request.conn_info.ctx
    if not hasattr(connection, "number"):
        connection.number = next(connection_numbers)
        connection.requests = 0
    connection.requests += 1
    number, requests = connection.number, connection.requests
    return json({"connection": number, "request": requests})
# --8<-- [end:count]


@bp.get("/slow")
async def slow(request):
    """Return the same after a second, so that requests overlap."""
    await asyncio.sleep(1)
    return await count(request)


@bp.on_response
async def add_cors_headers(request, response):
    """Let client.html read responses, wherever it was opened."""
    response.headers["Vary"] = "Origin"
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"


if __name__ == "__main__":
    app = Sanic("keep_alive")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(host=HOST, port=PORT, single_process=True)
