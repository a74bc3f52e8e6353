# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: lets whoever asks read what the cookie asked for.

- Run: `uv run wrong_cors.py`
- or: `pip install sanic==25.12.1 && python wrong_cors.py`
- Try: `curl -i -H "Origin: http://127.0.0.1:18001" 127.0.0.1:8000`,
  and the same with another origin
- Source: server_cors.py, which is right
"""

import os
import secrets

from sanic import Blueprint, Sanic, Unauthorized, html

bp = Blueprint("security_cors")
sessions = {}  # what the cookie holds -> who that is


@bp.get("/")
async def login(request):
    """Stand for a login: whoever comes is alice from now on."""
    session = secrets.token_urlsafe(16)
    sessions[session] = "alice"
    answer = html("<title>Bank</title>You are logged in, alice.")
    # A page of another site gets a cookie with samesite="None" alone.
    answer.add_cookie(
        "session", session, httponly=True, samesite="Lax", secure=False
    )
    return answer


@bp.get("/events")
async def events(request):
    """Tell the user what is new. A real stream would go on."""
    user = sessions.get(request.cookies.get("session"))
    if user is None:
        raise Unauthorized("log in first")
    stream = await request.respond(content_type="text/event-stream")
    await stream.send(f"data: {user} has 1000 coins\n\n")


# --8<-- [start:allow]
@bp.on_response
async def allow(request, response):
    """Let pages of any origin read answers that a cookie asked for."""
    response.headers["Vary"] = "Origin"  # for caches
    origin = request.headers.get("Origin")
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
# --8<-- [end:allow]


if __name__ == "__main__":
    app = Sanic("security_cors")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
