# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A notice board: POST puts a text up, an event stream shows it.

Two directions: each notice goes up in a request of its own, and all
come down in one answer to everybody who listens.

- Run: `uv run board.py`
- or: `pip install sanic==25.12.1 && python board.py`
- Try: `curl --no-buffer http://127.0.0.1:8000/notices`, and elsewhere
  `curl --data-binary "hello" http://127.0.0.1:8000/notices`
- Source: the format of an event stream, WHATWG HTML §9.2.5,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os
import re

from sanic import BadRequest, Blueprint, Sanic, json

bp = Blueprint("board")
listeners: set[asyncio.Queue] = set()


# --8<-- [start:frame]
def frame(text):
    """Return a text as one event: a data line for each of its lines.

    These three are the line ends of the format. str.splitlines()
    knows more of them than a browser does.
    """
    lines = re.split("\r\n|\r|\n", text)
    return "".join(f"data: {line}\n" for line in lines) + "\n"
# --8<-- [end:frame]


# --8<-- [start:post]
@bp.post("/notices")
async def put_up(request):
    """Show a text, sent as UTF-8, to all who listen now: how many."""
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        raise BadRequest("send text in UTF-8") from None
    for queue in listeners:
        queue.put_nowait(text)
    return json({"shown to": len(listeners)})
# --8<-- [end:post]


# --8<-- [start:listen]
@bp.get("/notices")
async def listen(request):
    """Show each text that goes up from now on."""
    stream = await request.respond(content_type="text/event-stream")
    queue = asyncio.Queue()
    listeners.add(queue)
    try:
        await stream.send(": listening\n\n")
        while (text := await queue.get()) is not None:
            await stream.send(frame(text))
    finally:
        listeners.discard(queue)
# --8<-- [end:listen]


@bp.before_server_stop
async def stop(app):
    """End all streams when the server stops."""
    for queue in listeners:
        queue.put_nowait(None)


@bp.on_response
async def let_any_page_read(request, response):
    """Let any page listen."""
    response.headers["Access-Control-Allow-Origin"] = "*"


if __name__ == "__main__":
    app = Sanic("board")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
