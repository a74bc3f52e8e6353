# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: a feed that tells news only to those who are asking.

A message that comes between two questions of a client is lost to it.

- Run: `uv run wrong_feed_server.py`
- or: `pip install sanic==25.12.1 && python wrong_feed_server.py`
- Source: feed_server.py, which is right
"""

import asyncio
import os
import re

from sanic import BadRequest, Blueprint, Sanic, json

MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))  # seconds

bp = Blueprint("feed")
last = 0  # the id of the newest message
news: asyncio.Future  # done when there is another one


# --8<-- [start:feed]
@bp.post("/messages")
async def publish(request):
    """Number a message, and give it to everyone who waits."""
    match request.json:
        case {"text": str() as text} if len(text) <= 1000:
            pass
        case _:
            raise BadRequest('send {"text": up to 1000 characters}')
    global last, news
    last += 1
    woken, news = news, asyncio.get_running_loop().create_future()
    woken.set_result({"id": last, "text": text})
    return json({"id": last}, status=201)


@bp.get("/messages")
async def read(request):
    """Return the next message, or none after N seconds."""
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    waiting = news
    if wait := preferred_wait(request):
        headers["Preference-Applied"] = f"wait={wait}"
        await asyncio.wait([waiting], timeout=wait)
    new = [waiting.result()] if waiting.done() else []
    return json({"messages": new}, headers=headers)
# --8<-- [end:feed]


WAIT = re.compile(r"(?i)\s*wait\s*=\s*([0-9]+)\s*(;.*)?")


def preferred_wait(request):
    """Return the N of `Prefer: wait=N`, at most MAX_WAIT; or None."""
    for preference in ",".join(
        request.headers.getall("Prefer", [])
    ).split(","):
        if match := WAIT.fullmatch(preference):
            return int(min(MAX_WAIT, float(match[1])))
    return None


@bp.before_server_start
async def start(app):
    """Make the future that the first message will complete."""
    global news
    news = asyncio.get_running_loop().create_future()


@bp.before_server_stop
async def stop(app):
    """Answer everyone who is held."""
    news.set_result({"id": last + 1, "text": "the feed stops"})


if __name__ == "__main__":
    app = Sanic("feed")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
