# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: a feed that sends a message only to clients that are waiting.

A message that is published between two polls of a client is lost.

- Run: `uv run wrong_feed_server.py`
- or: `pip install sanic==25.12.1 && python wrong_feed_server.py`
- Try: `curl -d '{"text": "hello"}' 127.0.0.1:8000/messages`, and then
  `curl '127.0.0.1:8000/messages?after=0'`
- Source: feed_server.py, which is right
"""

import asyncio
import os
import re
from collections import deque
from contextlib import suppress

from sanic import BadRequest, Blueprint, Request, Sanic, json
from sanic.exceptions import SanicException

PORT = int(os.environ.get("PORT", 8000))
MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))  # seconds
MAX_MESSAGES = int(os.environ.get("MAX_MESSAGES", 1000))


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


bp = Blueprint("feed", strict_slashes=True)
messages: deque[dict] = deque(maxlen=MAX_MESSAGES)
last_id = 0  # of the newest message
updated = asyncio.Event()


def parse_message(body):
    """Return the text of a message; reject anything else with 400."""
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or len(text) > 1000:
        raise BadRequest('send {"text": up to 1000 characters}')
    if re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", text):
        raise BadRequest("a text has no control characters")
    return text


@bp.post("/messages")
async def publish(request):
    """Number a message, keep it, and end all holds."""
    global last_id
    text = parse_message(request.json)
    last_id += 1
    messages.append({"id": last_id, "text": text})
    updated.set()  # wakes all that wait now
    updated.clear()  # those that come later wait for the next
    return json({"id": last_id}, 201)


@bp.get("/messages")
async def get_messages(request):
    """Return the messages that are published during the hold."""
    after = last_id
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    if wait := preferred_wait(request):
        headers["Preference-Applied"] = f"wait={wait}"
        if after == last_id:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await updated.wait()
    new = [m for m in messages if m["id"] > after]
    feed = {"messages": new, "missed": last_id - after - len(new)}
    # The cursor for the next poll.
    return json(feed | {"last": last_id}, headers=headers)


def parse_cursor(request):
    """Return the id in ?after, or 0; reject others with 400 or 410."""
    after = request.args.get("after", "0")
    if not re.fullmatch("[0-9]{1,15}", after):
        raise BadRequest("after is the id of a message, or 0")
    if int(after) > last_id:  # not from this server
        text = "the feed has restarted: poll with after=0"
        raise SanicException(text, status_code=410, quiet=True)
    return int(after)


def preferred_wait(request):
    """Return the N of `Prefer: wait=N`, at most MAX_WAIT; or 0."""
    match = re.fullmatch("wait=([0-9]{1,4})", request.headers.prefer)
    return min(int(match[1]), MAX_WAIT) if match else 0


@bp.before_server_stop
async def end_holds(app):
    """Respond to all held requests: no new message."""
    updated.set()


if __name__ == "__main__":
    app = Sanic("feed", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; default 100 MB
    app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5
    app.blueprint(bp)
    app.run(port=PORT, single_process=True)
