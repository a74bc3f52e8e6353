# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""The least that server-sent events take: a countdown, told live.

- Run: `uv run server_small.py`
- or: `pip install sanic==25.12.1 && python server_small.py`
- Try: `curl --no-buffer http://127.0.0.1:8000/countdown`
- Source: server-sent events, WHATWG HTML §9.2,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os

from sanic import Blueprint, Sanic

STEP = float(os.environ.get("STEP", 1))  # seconds between events

bp = Blueprint("countdown")


@bp.get("/countdown")
async def countdown(request):
    """Count down: one answer, with an event in it for each number."""
    stream = await request.respond(content_type="text/event-stream")
    for number in 3, 2, 1:
        await stream.send(f"data: {number}\n\n")
        await asyncio.sleep(STEP)
    await stream.send("event: done\ndata: lift-off\n\n")


if __name__ == "__main__":
    app = Sanic("countdown")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
