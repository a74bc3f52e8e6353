# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Wrong: takes the next message for the response to its request.

A message that the server pushes is taken for the response, and every
response after it for that of another request.

- Run: `uv run wrong_next_message.py`
- or: `pip install websockets==17.4 && python wrong_next_message.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: https://websockets.readthedocs.io/en/stable/
"""

import asyncio
import json
import os
import sys
from contextlib import suppress

from websockets.asyncio.client import connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidProxy,
    WebSocketException,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the longer job


class ProtocolError(Exception):
    """The message is not one of a job server."""


def parse_message(text):
    """Return a message about a job as a dict; raise ProtocolError."""
    with suppress(ValueError, RecursionError):
        match json.loads(text):
            case {"token": str(), "status": str()} as message:
                return message
    raise ProtocolError(f"received {text[:80]!r}")


# --8<-- [start:request]
async def send_request(ws, request):
    """Send a request; return the next message."""
    await ws.send(json.dumps(request))
    return parse_message(await ws.recv())
# --8<-- [end:request]


async def main():
    url = f"{URL}/jobs/socket".replace("http", "ws", 1)
    async with asyncio.timeout(SECONDS + 30), connect(url) as ws:
        tokens = {}
        for name, seconds in ("long", SECONDS), ("short", SECONDS / 4):
            request = {"id": name, "submit": {"seconds": seconds}}
            response = await send_request(ws, request)
            tokens[name] = response["token"]
        await asyncio.sleep(SECONDS / 2)  # other work of this program
        request = {"id": "status", "status": tokens["long"]}
        response = await send_request(ws, request)
        print(f"the long job is {response['status']}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ImportError, InvalidProxy) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
    except (InvalidHandshake, ProtocolError) as error:
        sys.exit(f"{URL} is not a job server: {error}")
    except (OSError, WebSocketException) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
