# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Two ways to say who you are on a socket, and a token that runs out.

The third way, a cookie, is in server.py.

- Run: `uv run server_auth.py`
- or: `pip install sanic==25.12.1 && python server_auth.py`
- Try: `TOKEN=5 uv run server_auth.py`, and client.py
- Source: private close codes, RFC 6455 §7.4.2; what a query string
  gives away, RFC 6750 §5.3
"""

import asyncio
import json
import os
import secrets
from collections import defaultdict, deque

from sanic import BadRequest, Blueprint, Sanic, Unauthorized
from sanic import json as json_response

# --8<-- [start:settings]
TOKEN = float(os.environ.get("TOKEN", 300))  # s that a token lives
TICKET = float(os.environ.get("TICKET", 10))  # s that a ticket lives
HELLO = float(os.environ.get("HELLO", 5))  # s to the first message
# --8<-- [end:settings]

# A real server looks these up, and stores only their hashes.
OWNERS = {"alice-key": "alice", "bob-key": "bob"}

bp = Blueprint("security_auth")
tokens = {}  # token -> (user, when it runs out)
tickets = {}  # ticket -> the same, of the token that it stands for
logs = defaultdict(lambda: deque(maxlen=1000))  # user -> events
news = asyncio.Condition()


# --8<-- [start:grant]
@bp.post("/tokens")
async def new_token(request):
    """Give a token for a key: for some minutes, in place of it."""
    user = OWNERS.get(sent(request, "key"))
    if user is None:
        raise Unauthorized("send a key that you were given")
    until = asyncio.get_running_loop().time() + TOKEN
    await publish(user, f"{user} got a token")
    return grant(tokens, (user, until), TOKEN)


@bp.post("/tickets")
async def new_ticket(request):
    """Give a ticket for a token: for one handshake, at once."""
    who = tokens.get(sent(request, "token"))
    if who is None:
        raise Unauthorized("send a token that is valid")
    return grant(tickets, who, TICKET)


def sent(request, name):
    """Return a text of the body; anything else is 400."""
    match request.json:
        case {**body} if isinstance(body.get(name), str):
            return body[name]
    raise BadRequest(f'send {{"{name}": "…"}}')


def grant(store, who, seconds):
    """Make up a name for who it is, and forget it in time."""
    name = secrets.token_urlsafe(16)
    store[name] = who
    loop = asyncio.get_running_loop()
    loop.call_later(seconds, store.pop, name, None)
    return json_response(
        {"token": name},
        status=201,
        headers={"Cache-Control": "no-store"},
    )
# --8<-- [end:grant]


# --8<-- [start:message]
@bp.websocket("/events")
async def by_message(request, ws):
    """Expect the token in the first message, and soon."""
    try:
        async with asyncio.timeout(HELLO):
            first = json.loads(await ws.recv())
        who, after = tokens.get(first["token"]), int(first["after"])
    except (TimeoutError, ValueError, KeyError, TypeError):
        who = None
    if who is None:
        await ws.close(4401, "say first who you are")
    else:
        await stream(ws, *who, after)
# --8<-- [end:message]


# --8<-- [start:ticket]
@bp.websocket("/events/ticket")
async def by_ticket(request, ws):
    """Take the ticket in the address; it is void from now on."""
    who = tickets.pop(request.args.get("ticket"), None)
    after = request.args.get("after", "0")
    if who is None or not after.isdecimal():
        await ws.close(4401, "get a new ticket")
    else:
        await stream(ws, *who, int(after))
# --8<-- [end:ticket]


# --8<-- [start:stream]
async def stream(ws, user, until, after):
    """Send events for as long as the token is valid."""
    receiving = asyncio.create_task(receive(ws))
    try:
        await ws.send(json.dumps({"user": user}))
        async with asyncio.timeout_at(until):
            while True:
                for event in await later(user, after):
                    await ws.send(json.dumps(event))
                    after = event["id"]
    except TimeoutError:
        await ws.close(4401, "the token has run out")
    finally:
        receiving.cancel()
# --8<-- [end:stream]


async def later(user, after):
    """Return the events after that one, as soon as there are any."""
    async with news:
        while not (new := [e for e in logs[user] if e["id"] > after]):
            await news.wait()
    return new


async def publish(user, text):
    """Add an event to what that user, and nobody else, is told."""
    async with news:
        log = logs[user]
        number = log[-1]["id"] + 1 if log else 1
        log.append({"id": number, "text": text})
        news.notify_all()


async def receive(ws):
    """Read what clients send, and ignore it.

    A message that nobody reads blocks the pongs that come after it.
    """
    async for _ in ws:
        pass


@bp.on_response
async def let_any_page_read(request, response):
    """Let client.html read the answers: no cookie is in play here."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"


@bp.after_server_stop
async def stop(app):
    """Leave no task behind; Sanic itself cancels the handlers."""
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
