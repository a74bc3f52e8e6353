# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2", "websockets==17.4"]
# ///
"""Print events; when the token expires, continue with a new one.

It runs until it is stopped, or until it has COUNT events.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 websockets==17.4 && python client.py`
- Needs: server_auth.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: private close codes, RFC 6455 §7.4.2
"""

import asyncio
import json
import os
import sys
from contextlib import suppress
from urllib.parse import urlsplit

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidProxy,
    WebSocketException,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
KEY = os.environ.get("KEY", "alice-key")
WEBSOCKET_URL = f"{URL.replace('http', 'ws', 1)}/events"
COUNT = int(os.environ.get("COUNT", 0))  # events; 0: no end


class ProtocolError(Exception):
    """The response or message is not one of server_auth.py."""


def parse_message(text, /, **types):
    """Return a JSON object; its fields must have these types."""
    with suppress(RecursionError, ValueError):  # not JSON
        message = json.loads(text)
        if isinstance(message, dict) and all(
            isinstance(message.get(name), types[name]) for name in types
        ):
            return message
    raise ProtocolError(f"received {text[:80]!r}")


def parse_event(text):
    """Return an event; its text is safe to print."""
    event = parse_message(text, id=int, text=str)
    if not event["text"].isprintable():
        raise ProtocolError(f"received {text[:80]!r}")
    return event


async def request_token(client):
    """Exchange the API key for a token."""
    response = await client.post(f"{URL}/tokens", json={"key": KEY})
    response.raise_for_status()
    return parse_message(response.text, token=str)["token"]


# --8<-- [start:follow]
async def follow(client, handle):
    """Call handle(event) for each event until it returns True.

    Requests as many tokens as that takes.
    """
    last = 0
    while True:
        token = await request_token(client)
        accepted = False
        async with connect(WEBSOCKET_URL) as ws:
            await ws.send(json.dumps({"token": token, "after": last}))
            with suppress(ConnectionClosed):
                parse_message(await ws.recv(), user=str)
                accepted = True
                async for message in ws:
                    event = parse_event(message)
                    last = event["id"]
                    if handle(event):
                        return
        if not accepted or ws.close_code != 4401:
            # A new token that is rejected will be rejected again.
            sys.exit(f"closed with {ws.close_code}: {ws.close_reason}")
        print(f"the token expired after event {last}", flush=True)
# --8<-- [end:follow]


def check_url():
    """Exit if the host or the port of URL is invalid."""
    try:
        _ = urlsplit(URL).port
    except ValueError as error:
        sys.exit(f"cannot reach {URL}: {error}")


async def main():
    ids = []

    def handle(event):
        ids.append(event["id"])
        print(event["id"], event["text"], flush=True)
        return len(ids) == COUNT

    async with httpx2.AsyncClient() as client:
        await follow(client, handle)
    missing = ids[-1] - ids[0] + 1 - len(set(ids))
    duplicates = len(ids) - len(set(ids))
    print(f"{missing} missing, {duplicates} duplicates")


if __name__ == "__main__":
    check_url()
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (ImportError, InvalidProxy, ValueError) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a server of events: {error}")
    except (OSError, WebSocketException, httpx2.HTTPError) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
