# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: authenticates by the cookie alone, and ignores Origin.

The browser sends the cookie for any page; only Origin names it.

- Run: `uv run wrong_server.py`
- or: `pip install sanic==25.12.1 && python wrong_server.py`
- Try: open http://127.0.0.1:8000/ and then evil.html; or
  `curl -i 127.0.0.1:8000`, and with its cookie
  `curl -i --max-time 1 -H 'Cookie: session=SESSION'
  -H 'Origin: http://evil.example' -H 'Sec-WebSocket-Version: 13'
  -H 'Connection: Upgrade' -H 'Upgrade: websocket'
  -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='
  127.0.0.1:8000/socket`
- Source: server.py, which is right
"""

import asyncio
import os
import secrets
import time
from collections import deque

from sanic import (
    BadRequest,
    Blueprint,
    Request,
    Sanic,
    Unauthorized,
    html,
    json,
)
from sanic.exceptions import SanicException, ServiceUnavailable
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

PORT = int(os.environ.get("PORT", 8000))
SAMESITE = os.environ.get("SAMESITE", "Lax")
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


bp = Blueprint("security")
sessions = {}  # value of a cookie -> (user, when it expires)
actions = deque(maxlen=100)  # what was done, and for which user


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
    response.add_cookie(
        "session",
        session,
        httponly=True,  # no script can read it
        samesite=SAMESITE,
        secure=SAMESITE == "None",  # with https: always
    )
    return response


@bp.on_request
async def authenticate(request):
    """Reject requests without a session."""
    request.ctx.user = find_user(request)
    if request.ctx.user is None and request.path != "/":
        raise Unauthorized("log in first")


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


def is_text(value):
    """Return whether this is text without control characters."""
    return isinstance(value, str) and value.isprintable()


@bp.get("/actions")
async def list_actions(request):
    """Return the last actions."""
    return json(list(actions))


# --8<-- [start:protocol]
class HardenedWebSocketProtocol(WebSocketProtocol):
    """Sanic's WebSocket protocol, with five of its faults repaired.

    Sanic 25.12.1 reads ahead without limit while the handler is busy;
    after invalid UTF-8 it keeps the connection open; it accepts any
    number of fragments in a message; it responds with 500 to an
    invalid header; and it omits headers from a rejected handshake.
    RFC 6455 §4.4, §8.1; RFC 9110 §15.5.22.
    """

    __slots__ = ("read_task",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.read_task = None

    async def websocket_handshake(self, *args):
        """Open the WebSocket, or reject it with the right headers."""
        try:
            ws = await super().websocket_handshake(*args)
        except SanicException as error:
            if error.__context__:  # it could not read the headers
                error.status_code = 400
            error.quiet = error.status_code < 500  # no traceback
            error.headers = {"Sec-WebSocket-Version": "13"}
            if error.status_code == 426:
                error.headers["Upgrade"] = "websocket"
            raise
        ws.can_pause = False  # data_received() pauses instead
        return ws

    def data_received(self, data):
        """Pause reading until the handler has received this data."""
        if self.websocket is None:  # the handshake is still to come
            super().data_received(data)
            return
        self.transport.pause_reading()
        self.read_task = asyncio.create_task(self.process_read(data))

    async def process_read(self, data):
        """Process the frames in `data`, then resume reading."""
        ws, connection = self.websocket, self.websocket.ws_proto
        connection.receive_data(data)
        try:
            await ws.async_data_received(
                connection.data_to_send(), connection.events_received()
            )
        except UnicodeDecodeError:
            ws.fail_connection(1007, "invalid UTF-8")
        else:
            if len(ws.assembler.chunks) > 4096:  # even if all are empty
                ws.fail_connection(1009, "too many fragments")
            elif self.transport:  # None once the connection is lost
                self.transport.resume_reading()

    def connection_lost(self, exc):
        """Cancel the task of the last read."""
        super().connection_lost(exc)
        if self.read_task:
            self.read_task.cancel()
# --8<-- [end:protocol]


if __name__ == "__main__":
    app = Sanic("security", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; more is a 1009
    app.blueprint(bp)
    app.run(
        port=PORT,
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
