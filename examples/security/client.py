# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2", "websockets==17.4"]
# ///
"""A client whose token runs out, and that goes on with a new one.

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

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

URL = os.environ.get("URL", "http://127.0.0.1:8000")
KEY = os.environ.get("KEY", "alice-key")
SOCKET = f"{URL.replace('http', 'ws', 1)}/events"
COUNT = int(os.environ.get("COUNT", 0))  # events; 0: no end


# --8<-- [start:follow]
async def follow(http, handle):
    """Call handle(event) for all events, with as many tokens as needed.

    Returns when that returns True.
    """
    seen = 0
    while True:
        answer = await http.post("/tokens", json={"key": KEY})
        answer.raise_for_status()
        hello = {"token": answer.json()["token"], "after": seen}
        welcome = None
        async with connect(SOCKET) as ws:
            await ws.send(json.dumps(hello))
            with suppress(ConnectionClosed):
                welcome = json.loads(await ws.recv())
                async for message in ws:
                    event = json.loads(message)
                    seen = event["id"]
                    if handle(event):
                        return
        if welcome is None or ws.close_code != 4401:
            # A new token that is refused will be refused again.
            sys.exit(f"closed with {ws.close_code}: {ws.close_reason}")
        print(f"the token ran out after event {seen}", flush=True)
# --8<-- [end:follow]


async def main():
    numbers = []

    def handle(event):
        numbers.append(event["id"])
        print(event["id"], event["text"], flush=True)
        return len(numbers) == COUNT

    async with httpx2.AsyncClient(base_url=URL) as http:
        await follow(http, handle)
    missing = numbers[-1] - numbers[0] + 1 - len(set(numbers))
    twice = len(numbers) - len(set(numbers))
    print(f"{missing} missing, {twice} twice")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except (OSError, WebSocketException, httpx2.HTTPError) as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} is no server of events: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
