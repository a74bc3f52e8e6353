# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: checks the token only when the WebSocket is opened.

- Run: `uv run wrong_expiry.py`
- or: `pip install sanic==25.12.1 && python wrong_expiry.py`
- Source: server_auth.py, which is right
"""

import asyncio
import json
import os
import re
import secrets
from collections import defaultdict, deque
from contextlib import suppress

from sanic import BadRequest, Blueprint, Sanic, Unauthorized
from sanic import json as json_response

# --8<-- [start:settings]
TOKEN_TTL = float(os.environ.get("TOKEN_TTL", 300))  # seconds
TICKET_TTL = float(os.environ.get("TICKET_TTL", 10))  # seconds
AUTH_TIMEOUT = float(os.environ.get("AUTH_TIMEOUT", 5))  # seconds
# --8<-- [end:settings]

# A real server looks these up, and stores only their hashes.
API_KEYS = {"alice-key": "alice", "bob-key": "bob"}

bp = Blueprint("security_auth")
tokens = {}  # token -> (user, time at which it expires)
tickets = {}  # ticket -> the same, of the token that it stands for
logs = defaultdict(lambda: deque(maxlen=1000))  # user -> events
updated = asyncio.Condition()


# --8<-- [start:issue]
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
# --8<-- [end:issue]


# --8<-- [start:message]
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
# --8<-- [end:message]


# --8<-- [start:ticket]
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
# --8<-- [end:ticket]


# --8<-- [start:stream]
async def stream(ws, user, expires_at, after):
    """Send the user's events until the client disconnects."""
    receiving = asyncio.create_task(receive(ws))
    try:
        await ws.send(json.dumps({"user": user}))
        await send_events(ws, user, after)
    finally:
        receiving.cancel()
# --8<-- [end:stream]


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


@bp.after_server_stop
async def drain_tasks(app):
    """Wait for handlers, which Sanic cancels without waiting."""
    # Sanic keeps no list of the tasks of WebSocket handlers.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


if __name__ == "__main__":
    app = Sanic("security_auth")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; more is a 1009
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
