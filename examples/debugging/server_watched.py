# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A server that names the line that blocks its event loop.

- Run: `uv run server_watched.py`
- or: `pip install sanic==25.12.1 && python server_watched.py`
- Try: `curl http://127.0.0.1:8000/blocking`
- Source: https://docs.python.org/3/library/faulthandler.html
"""

import asyncio
import faulthandler
import os
import time

from sanic import Blueprint, Sanic, json

LIMIT = float(os.environ.get("LIMIT", 1))  # seconds
BLOCK = float(os.environ.get("BLOCK", 2))  # seconds

bp = Blueprint("debugging_watched")


# --8<-- [start:block]
@bp.get("/blocking")
async def blocking(request):
    """Do something slow in the loop, and hold up everyone."""
    time.sleep(BLOCK)  # noqa: ASYNC251, the mistake to be found
    return json({"status": "done"})
# --8<-- [end:block]


# --8<-- [start:watch]
async def watch():
    """Put off an alarm, over and over, for as long as the loop runs.

    The alarm is a thread of its own: it rings when nothing else can.
    """
    while True:
        faulthandler.dump_traceback_later(LIMIT)
        await asyncio.sleep(LIMIT / 4)


@bp.before_server_start
async def start(app):
    """Begin to watch."""
    app.ctx.watching = asyncio.create_task(watch())


@bp.after_server_stop
async def stop(app):
    """End the watch, and put its last alarm off for good."""
    app.ctx.watching.cancel()
    faulthandler.cancel_dump_traceback_later()
# --8<-- [end:watch]


if __name__ == "__main__":
    app = Sanic("debugging_watched")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
