# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: takes a cookie for proof of who is asking.

The browser sends the cookie for any page; only Origin says whose.

- Run: `uv run wrong_server.py`
- or: `pip install sanic==25.12.1 && python wrong_server.py`
- Try: open http://127.0.0.1:8000/ and then evil.html
- Source: server.py, which is right
"""

import os
import secrets

from sanic import Blueprint, Sanic, Unauthorized, html, json

PORT = int(os.environ.get("PORT", 8000))
SAMESITE = os.environ.get("SAMESITE", "Lax")

bp = Blueprint("security")
sessions = {}  # what the cookie holds -> who that is
deeds = []  # what was done, and in whose name


# --8<-- [start:login]
@bp.get("/")
async def login(request):
    """Stand for a login: whoever comes is alice from now on."""
    session = secrets.token_urlsafe(16)
    sessions[session] = "alice"
    answer = html("<title>Bank</title>You are logged in, alice.")
    answer.add_cookie(
        "session",
        session,
        httponly=True,  # no script can read it
        samesite=SAMESITE,
        secure=SAMESITE == "None",  # with https: always
    )
    return answer
# --8<-- [end:login]


# --8<-- [start:check]
@bp.on_request
async def check(request):
    """Refuse who is not logged in."""
    request.ctx.user = sessions.get(request.cookies.get("session"))
    if request.ctx.user is None and request.path != "/":
        raise Unauthorized("log in first")
# --8<-- [end:check]


# --8<-- [start:act]
@bp.websocket("/socket")
async def socket(request, ws):
    """Tell a secret, and do what is asked, in the user's name."""
    await ws.send(f"{request.ctx.user} has 1000 coins")
    async for message in ws:
        deeds.append(f"{request.ctx.user}: {message}")
        await ws.send(f"done for {deeds[-1]}")


@bp.route("/jobs", methods=["POST"])
async def submit(request):
    """Start a job in the user's name."""
    deeds.append(f"{request.ctx.user}: {request.json}")
    return json({"done for": deeds[-1]}, status=202)
# --8<-- [end:act]


@bp.get("/deeds")
async def show(request):
    """Show what was done."""
    return json(deeds)


if __name__ == "__main__":
    app = Sanic("security")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; more is a 1009
    app.blueprint(bp)
    app.run(port=PORT, single_process=True)
