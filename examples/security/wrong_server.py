# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: authenticates by the cookie alone, and ignores Origin.

The browser sends the cookie for any page; only Origin says whose.

- Run: `uv run wrong_server.py`
- or: `pip install sanic==25.12.1 && python wrong_server.py`
- Try: open http://127.0.0.1:8000/ and then evil.html
- Source: server.py, which is right
"""

import os
import secrets
from collections import deque

from sanic import (
    BadRequest,
    Blueprint,
    Sanic,
    Unauthorized,
    html,
    json,
)

PORT = int(os.environ.get("PORT", 8000))
SAMESITE = os.environ.get("SAMESITE", "Lax")

bp = Blueprint("security")
sessions = {}  # value of the session cookie -> user
actions = deque(maxlen=100)  # what was done, and for which user


# --8<-- [start:login]
@bp.get("/")
async def login(request):
    """Stand in for a login: every visitor becomes alice."""
    session = secrets.token_urlsafe(16)
    sessions[session] = "alice"
    response = html("<title>Bank</title>You are logged in, alice.")
    response.add_cookie(
        "session",
        session,
        httponly=True,  # no script can read it
        samesite=SAMESITE,
        secure=SAMESITE == "None",  # with https: always
    )
    return response
# --8<-- [end:login]


# --8<-- [start:check]
@bp.on_request
async def authenticate(request):
    """Reject requests without a session."""
    request.ctx.user = sessions.get(request.cookies.get("session"))
    if request.ctx.user is None and request.path != "/":
        raise Unauthorized("log in first")
# --8<-- [end:check]


# --8<-- [start:act]
@bp.websocket("/socket")
async def socket(request, ws):
    """Send private data; act on each message, as the user."""
    await ws.send(f"{request.ctx.user} has 1000 coins")
    async for message in ws:
        if not is_text(message):
            await ws.close(1008, "send printable text")
            return
        await ws.send(f"done for {act(request, message)}")


@bp.post("/jobs")
async def create_job(request):
    """Act on a JSON string, as the user."""
    if not is_text(request.json):
        raise BadRequest("send a JSON string of printable text")
    return json({"done for": act(request, request.json)}, status=202)


def act(request, text):
    """Record an action and its user; return the record."""
    actions.append(f"{request.ctx.user}: {text}")
    return actions[-1]
# --8<-- [end:act]


def is_text(value):
    """Return whether this is text without control characters."""
    return isinstance(value, str) and value.isprintable()


@bp.get("/actions")
async def list_actions(request):
    """Return the last actions."""
    return json(list(actions))


if __name__ == "__main__":
    app = Sanic("security")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; more is a 1009
    app.blueprint(bp)
    app.run(port=PORT, single_process=True)
