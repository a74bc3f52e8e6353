# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A held response, an event stream and a WebSocket to look at.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: any of the tools on the same page; with LOG_LEVEL=DEBUG in the
  environment, Sanic logs each WebSocket frame
- Source: 426 and Upgrade, RFC 9110 §15.5.22
"""

import asyncio
import logging
import os

from sanic import Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
HOLD = float(os.environ.get("HOLD", 1))  # seconds
EVENT_COUNT = int(os.environ.get("EVENT_COUNT", 3))

app = Sanic("debugging")


# --8<-- [start:server]
@app.get("/poll")
async def poll(request):
    """Hold the request, then respond."""
    await asyncio.sleep(HOLD)
    return json({"status": "done"})


@app.get("/events")
async def events(request):
    """Send a few events, then end the stream."""
    stream = await request.respond(content_type="text/event-stream")
    for number in range(1, EVENT_COUNT + 1):
        await stream.send(f"id: {number}\ndata: event {number}\n\n")
        await asyncio.sleep(HOLD)


@app.websocket("/socket")
async def echo(request, ws):
    """Send a greeting, then echo messages until "bye"."""
    await ws.send("hello")
    async for message in ws:
        await ws.send(message)
        if message == "bye":
            return
# --8<-- [end:server]


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; above it, 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; above it, 1009
    # --8<-- [start:log]
    level = os.environ.get("LOG_LEVEL", "WARNING")  # or DEBUG
    logging.getLogger("sanic.websockets").setLevel(level)
    # --8<-- [end:log]
    app.run(host=HOST, port=PORT, single_process=True)
