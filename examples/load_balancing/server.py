# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""One of several instances behind a load balancer.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: three of them, with NAME=a PORT=8001, NAME=b PORT=8002 and
  NAME=c PORT=8003, behind haproxy.cfg or nginx.conf
- Source: close codes, RFC 6455 §7.4.1
"""

import asyncio
import os

from sanic import Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
NAME = os.environ.get("NAME", "a")

app = Sanic("load_balancing")
websockets = set()


@app.get("/health")
async def health(request):
    """Respond to the load balancer's health check."""
    return json({"name": NAME, "websockets": len(websockets)})


# --8<-- [start:echo]
@app.websocket("/socket")
async def echo(request, ws):
    """Send the name of this instance, then echo messages."""
    websockets.add(ws)
    try:
        await ws.send(NAME)
        async for message in ws:
            await ws.send(f"{NAME}: {message}")
    finally:
        websockets.discard(ws)
# --8<-- [end:echo]


@app.before_server_stop
async def close_websockets(app):
    """Close with 1012, service restart: clients reconnect."""
    await asyncio.gather(*(ws.close(1012) for ws in set(websockets)))


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.run(host=HOST, port=PORT, single_process=True)
