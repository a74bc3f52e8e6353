# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A server that says over which connection it was asked.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Source: Persistence, RFC 9112 §9.3
"""

import asyncio
import itertools
import os

from sanic import Blueprint, Sanic, json

bp = Blueprint("keep_alive")
numbers = itertools.count(1)


# --8<-- [start:which]
@bp.get("/", strict_slashes=True)  # also under a prefix
async def which(request):
    """Say which connection this is, and which request on it."""
    # What Sanic keeps here lives as long as the connection.
    here = request.conn_info.ctx
    if not hasattr(here, "number"):
        here.number, here.requests = next(numbers), 0
    here.requests += 1
    return json({"connection": here.number, "request": here.requests})
# --8<-- [end:which]


@bp.get("/slow")
async def slow(request):
    """The same a second later, so that requests can overlap."""
    await asyncio.sleep(1)
    return await which(request)


@bp.on_response
async def let_any_page_read(request, response):
    """Let client.html read the answers, wherever it was opened."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"


if __name__ == "__main__":
    app = Sanic("keep_alive")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
