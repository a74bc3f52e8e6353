# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A feed of messages by long polling: each client says where it is.

- Run: `uv run feed_server.py`
- or: `pip install sanic==25.12.1 && python feed_server.py`
- Source: Prefer and wait, RFC 7240 §2 and §4.3; 410 Gone, RFC 9110
  §15.5.11
"""

import asyncio
import os
import re
from collections import deque

from sanic import BadRequest, Blueprint, Sanic, json
from sanic.exceptions import SanicException

MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))  # seconds
KEEP = int(os.environ.get("KEEP", 1000))  # messages; older ones go

bp = Blueprint("feed")
messages: deque[dict] = deque(maxlen=KEEP)
last = 0  # the id of the newest message
news: asyncio.Future  # done when there is another one


# --8<-- [start:publish]
@bp.post("/messages")
async def publish(request):
    """Number a message, keep it, and wake everyone who waits."""
    match request.json:
        case {"text": str() as text} if len(text) <= 1000:
            pass
        case _:
            raise BadRequest('send {"text": up to 1000 characters}')
    global last, news
    last += 1
    messages.append({"id": last, "text": text})
    woken, news = news, asyncio.get_running_loop().create_future()
    woken.set_result(None)
    return json({"id": last}, status=201)
# --8<-- [end:publish]


# --8<-- [start:read]
@bp.get("/messages")
async def read(request):
    """Return all messages after the id in ?after, oldest first.

    With Prefer: wait=N and nothing new, wait for it, N seconds at
    most. A cursor from elsewhere is 410. What is too old to be kept
    is counted as missed.
    """
    after = cursor(request)
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    if wait := preferred_wait(request):
        headers["Preference-Applied"] = f"wait={wait}"
        if after == last:
            await asyncio.wait([news], timeout=wait)
    new = [each for each in messages if each["id"] > after]
    answer = {
        "messages": new,
        "missed": last - after - len(new),
        "last": last,  # the cursor for the next question
    }
    return json(answer, headers=headers)


def cursor(request):
    """Return the id in ?after, 0 without one; else 400 or 410."""
    after = request.args.get("after", "0")
    if not re.fullmatch("[0-9]{1,15}", after):
        raise BadRequest("after is the id of a message, or 0")
    if int(after) > last:  # this server never gave it out
        raise SanicException(
            "this feed has started anew: ask for after=0",
            status_code=410,
            quiet=True,
        )
    return int(after)
# --8<-- [end:read]


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
    """Answer everyone who is held: nothing new."""
    if not news.done():
        news.set_result(None)


if __name__ == "__main__":
    app = Sanic("feed")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
