# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
r"""WRONG: writes a text into a stream of lines as it is.

This is board.py with another format_event(): a user who may post may
forge events.

- Run: `uv run wrong_board.py`
- or: `pip install sanic==25.12.1 && python wrong_board.py`
- Try: `curl --max-time 2 http://127.0.0.1:8000/notices &
  curl --data-binary $'hello\n\nevent: alarm\ndata: leave the house'
  http://127.0.0.1:8000/notices`
- Source: the format of an event stream, WHATWG HTML §9.2.5,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os
import random
import resource

from sanic import BadRequest, Request, Sanic, json
from sanic.exceptions import ServiceUnavailable

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # seconds
# A quarter of the files that this process may open stays free for
# requests other than streams.
MAX_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
if MAX_FILES == resource.RLIM_INFINITY:
    MAX_FILES = 10_000
MAX_STREAMS = int(os.environ.get("MAX_STREAMS", MAX_FILES * 3 // 4))
MAX_QUEUE = int(os.environ.get("MAX_QUEUE", 100))  # unsent notices
STREAM_HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


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


app = Sanic("board", request_class=SafeRequest)
app.config.FALLBACK_ERROR_FORMAT = "json"
app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
subscribers: set[asyncio.Queue] = set()


def format_event(text):
    """Return a text as one event, if it is only one line."""
    return f"data: {text}\n\n"


@app.post("/notices")
async def publish(request):
    """Publish a text in UTF-8; return the number of subscribers."""
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        raise BadRequest("send text in UTF-8") from None
    for queue in subscribers:
        if queue.qsize() < MAX_QUEUE:
            queue.put_nowait(text)
        elif queue.qsize() == MAX_QUEUE:  # a slow consumer
            queue.put_nowait(None)  # ends its stream
    return json({"subscribers": len(subscribers)})


@app.get("/notices")
async def subscribe(request):
    """Stream each text that is published from now on."""
    if len(subscribers) >= MAX_STREAMS:
        request.stream.keep_alive = False  # its descriptor is needed
        headers = {"Retry-After": str(random.randint(5, 15))}
        raise ServiceUnavailable("too many streams", headers=headers)
    queue = asyncio.Queue()
    subscribers.add(queue)
    try:
        await send_notices(request, queue)
    finally:  # also on a disconnect, which cancels the handler
        subscribers.discard(queue)


async def send_notices(request, queue):
    """Send what is in a queue until it contains None."""
    stream = await request.respond(
        content_type="text/event-stream", headers=STREAM_HEADERS
    )
    await stream.send(": subscribed\n\n")
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT):
                text = await queue.get()
        except TimeoutError:
            await stream.send(": heartbeat\n\n")
        else:
            if text is None:
                return
            await stream.send(format_event(text))


@app.before_server_stop
async def end_streams(app):
    """End all streams when the server stops."""
    for queue in subscribers:
        queue.put_nowait(None)


@app.on_response
async def add_cors_headers(request, response):
    """Let a page of any origin subscribe."""
    response.headers["Access-Control-Allow-Origin"] = "*"


if __name__ == "__main__":
    app.run(host=HOST, port=PORT, single_process=True)
