# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: checks the token only when the WebSocket is opened.

- Run: `uv run wrong_expiry.py`
- or: `pip install sanic==25.12.1 && python wrong_expiry.py`
- Try: `TOKEN_TTL=6 uv run wrong_expiry.py`, and then
  `curl -d '{"key": "alice-key"}' 127.0.0.1:8000/tokens`, and with its
  token `(echo '{"token": "TOKEN", "after": 0}'; sleep 7) |
  uvx websockets ws://127.0.0.1:8000/events`
- Source: server_auth.py, which is right
"""

import asyncio
import json
import os
import re
import secrets
from collections import defaultdict, deque
from contextlib import suppress

from sanic import BadRequest, Blueprint, Request, Sanic, Unauthorized
from sanic import json as json_response
from sanic.exceptions import SanicException
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

TOKEN_TTL = float(os.environ.get("TOKEN_TTL", 300))  # seconds
TICKET_TTL = float(os.environ.get("TICKET_TTL", 10))  # seconds
AUTH_TIMEOUT = float(os.environ.get("AUTH_TIMEOUT", 5))  # seconds

# A real server looks these up, and stores only their hashes.
API_KEYS = {"alice-key": "alice", "bob-key": "bob"}

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


bp = Blueprint("security_auth")
tokens = {}  # token -> (user, time at which it expires)
tickets = {}  # ticket -> the same, of the token that it stands for
logs = defaultdict(lambda: deque(maxlen=1000))  # user -> events
updated = asyncio.Condition()


@bp.post("/tokens")
async def create_token(request):
    """Exchange an API key for a token that is valid for minutes."""
    user = API_KEYS.get(parse_field(request, "key"))
    if user is None:
        raise Unauthorized("send a valid key")
    expires_at = asyncio.get_running_loop().time() + TOKEN_TTL
    await publish(user, f"a token was issued to {user}")
    return issue(tokens, "token", (user, expires_at), TOKEN_TTL)


@bp.post("/tickets")
async def create_ticket(request):
    """Exchange a token for a ticket, which opens one WebSocket."""
    identity = tokens.get(parse_field(request, "token"))
    if identity is None:
        raise Unauthorized("send a valid token")
    return issue(tickets, "ticket", identity, TICKET_TTL)


def parse_field(request, name):
    """Return a string of the JSON body; reject any other with 400."""
    body = request.json
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str):
        raise BadRequest(f'send {{"{name}": "…"}}')
    return value


def issue(store, name, identity, ttl):
    """Store an identity under a new secret, and respond with it."""
    secret = secrets.token_urlsafe(16)
    store[secret] = identity
    loop = asyncio.get_running_loop()
    loop.call_later(ttl, store.pop, secret, None)
    headers = {"Cache-Control": "no-store"}
    return json_response({name: secret}, 201, headers)


@bp.websocket("/events")
async def authenticate_by_message(request, ws):
    """Expect a token in the first message, within AUTH_TIMEOUT."""
    identity = after = None
    with suppress(TimeoutError):
        async with asyncio.timeout(AUTH_TIMEOUT):
            identity, after = parse_authentication(await ws.recv())
    if identity is None:
        await ws.close(4401, "authenticate first")
    else:
        await stream(ws, *identity, after)


def parse_authentication(message):
    """Return (identity, after); the identity is None if invalid."""
    with suppress(ValueError, RecursionError):  # not JSON
        match json.loads(message):
            case {"token": str() as token, "after": after}:
                # type(), because a bool is an int.
                if type(after) is int and after >= 0:
                    return tokens.get(token), after
    return None, None


@bp.websocket("/events/ticket")
async def authenticate_by_ticket(request, ws):
    """Accept the ticket in the URL, which is void from now on."""
    identity = tickets.pop(request.args.get("ticket"), None)
    after = request.args.get("after", "0")
    # int() reads digits of all scripts, and fails for very many.
    if identity is None or not re.fullmatch("[0-9]{1,9}", after):
        await ws.close(4401, "get a new ticket")
    else:
        await stream(ws, *identity, int(after))


async def stream(ws, user, expires_at, after):
    """Send the user's events until the client disconnects."""
    receiving = asyncio.create_task(receive(ws))
    try:
        await ws.send(json.dumps({"user": user}))
        await send_events(ws, user, after)
    finally:
        receiving.cancel()


async def send_events(ws, user, after):
    """Send each event of a user after that id, without end."""
    while True:
        for event in await wait_for_events(user, after):
            await ws.send(json.dumps(event))
            after = event["id"]


async def wait_for_events(user, after):
    """Return the events after that id, as soon as there are any."""
    async with updated:
        while not (new := [e for e in logs[user] if e["id"] > after]):
            await updated.wait()
    return new


async def publish(user, text):
    """Append an event to the log of one user."""
    async with updated:
        log = logs[user]
        number = log[-1]["id"] + 1 if log else 1
        log.append({"id": number, "text": text})
        updated.notify_all()


async def receive(ws):
    """Receive messages, and ignore them.

    A message that is not received blocks the pongs behind it.
    """
    async for _ in ws:
        pass


@bp.on_response
async def add_cors_headers(request, response):
    """Let client.html read responses: no cookie is involved here."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"


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
    app = Sanic("security_auth", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; more is a 1009
    app.blueprint(bp)
    app.run(
        port=int(os.environ.get("PORT", 8000)),
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
