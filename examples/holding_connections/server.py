# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Hold every request until a release, or for HOLD seconds.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: client.py; and again after `ulimit -n 300` in the server's shell
- Source: long polling, RFC 6202 §2.1
"""

import asyncio
import os

from sanic import Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
HOLD = float(os.environ.get("HOLD", 5))  # seconds

app = Sanic("holding_connections")
held: set[asyncio.Future] = set()  # one for each client


# --8<-- [start:hold]
async def hold():
    """Wait for the release, and HOLD seconds at most."""
    waiter = asyncio.get_running_loop().create_future()
    held.add(waiter)
    try:
        await asyncio.wait([waiter], timeout=HOLD)
    finally:  # also if the client disconnected
        held.discard(waiter)


@app.get("/poll")
async def poll(request):
    """Hold a request."""
    await hold()
    return json({"status": "done"})
# --8<-- [end:hold]


@app.post("/release")
async def release(request):
    """Release all clients; return how many there were."""
    return json({"released": release_all()})


def release_all():
    for waiter in held:
        if not waiter.done():
            waiter.set_result(None)
    return len(held)


@app.get("/held")
async def count_held(request):
    """Return how many clients are held."""
    return json({"held": len(held)})


@app.before_server_stop
async def shutdown(app):
    release_all()


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.RESPONSE_TIMEOUT = HOLD + 5  # seconds
    app.run(host=HOST, port=PORT, single_process=True)
