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

from sanic import Request, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
BLOCK_LIMIT = float(os.environ.get("BLOCK_LIMIT", 1))  # seconds
BLOCK = float(os.environ.get("BLOCK", 2))  # seconds


# --8<-- [start:SafeRequest]
class SafeRequest(Request):
    """A request that no client can turn into a traceback or a leak."""

    def __init__(self, url_bytes, *args, method, **kwargs):
        # Sanic reports an invalid target by means of a request with
        # the method NONE and the same target, and fails on it again.
        if method == "NONE":
            url_bytes = b"*"
        super().__init__(url_bytes, *args, method=method, **kwargs)
        # No response here depends on Accept, and Sanic responds with
        # 500 to an Accept that it cannot parse.
        self.headers.popall("accept", None)

    async def respond(self, *args, **kwargs):
        # Sanic waits without a limit for the rest of a body that was
        # not read to its end. Close the connection instead.
        if self.stream.request_body:
            self.stream.request_body = None
            self.stream.keep_alive = False
        return await super().respond(*args, **kwargs)
# --8<-- [end:SafeRequest]


app = Sanic("debugging_watched", request_class=SafeRequest)


# --8<-- [start:block]
@app.get("/blocking")
async def blocking(request):
    """Block the event loop, and with it every other client."""
    time.sleep(BLOCK)  # noqa: ASYNC251, the fault to be found
    return json({"status": "done"})
# --8<-- [end:block]


# --8<-- [start:watch]
async def watch_loop():
    """Postpone a traceback dump for as long as the loop runs.

    The dump comes from a thread of its own, so that a blocked loop
    does not prevent it.
    """
    while True:
        faulthandler.dump_traceback_later(BLOCK_LIMIT)
        await asyncio.sleep(BLOCK_LIMIT / 4)


@app.before_server_start
async def start_watch(app):
    app.ctx.watch = asyncio.create_task(watch_loop())


@app.after_server_stop
async def stop_watch(app):
    app.ctx.watch.cancel()
    faulthandler.cancel_dump_traceback_later()
# --8<-- [end:watch]


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; above it, 413
    app.run(host=HOST, port=PORT, single_process=True)
