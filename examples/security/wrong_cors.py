# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: allows every origin, because it repeats the one it is sent.

- Run: `uv run wrong_cors.py`
- or: `pip install sanic==25.12.1 && python wrong_cors.py`
- Try: `curl -i -H 'Origin: http://evil.example' 127.0.0.1:8000`
- Source: server_cors.py, which is right
"""

import os
import secrets
import time

from sanic import Blueprint, Request, Sanic, Unauthorized, html
from sanic.exceptions import ServiceUnavailable

SESSION_TTL = float(os.environ.get("SESSION_TTL", 3600))  # seconds
MAX_SESSIONS = int(os.environ.get("MAX_SESSIONS", 10_000))

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


bp = Blueprint("security_cors")
sessions = {}  # value of a cookie -> (user, when it expires)


def start_session(user):
    """Store a session of a user; return the value of its cookie."""
    now = time.monotonic()
    while sessions:  # the oldest first
        session, (_, expires_at) = next(iter(sessions.items()))
        if now < expires_at:
            break
        del sessions[session]
    if len(sessions) >= MAX_SESSIONS:
        raise ServiceUnavailable(
            "too many sessions", headers={"Retry-After": "60"}
        )
    session = secrets.token_urlsafe(16)
    sessions[session] = user, now + SESSION_TTL
    return session


def find_user(request):
    """Return the user of a request's session, or None."""
    session = request.cookies.get("session")
    user, expires_at = sessions.get(session, (None, 0))
    return user if time.monotonic() < expires_at else None


@bp.get("/")
async def login(request):
    """Stand in for a login: every visitor becomes alice."""
    session = start_session("alice")
    response = html("<title>Bank</title>You are logged in, alice.")
    # A page of another site gets a cookie with samesite="None" alone.
    response.add_cookie(
        "session", session, httponly=True, samesite="Lax", secure=False
    )
    return response


@bp.get("/events")
async def stream_events(request):
    """Send one event of the user. A real stream would stay open."""
    user = find_user(request)
    if user is None:
        raise Unauthorized("log in first")
    stream = await request.respond(content_type="text/event-stream")
    await stream.send(f"data: {user} has 1000 coins\n\n")


@bp.on_response
async def add_cors_headers(request, response):
    """Let all pages read responses to requests with a cookie."""
    response.headers["Vary"] = "Origin"  # for caches
    origin = request.headers.get("Origin")
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"


if __name__ == "__main__":
    app = Sanic("security_cors", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
