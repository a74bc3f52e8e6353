# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Submit a job over a WebSocket, and receive its result.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
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
from websockets.exceptions import InvalidHandshake, WebSocketException

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the job's length


class ProtocolError(Exception):
    """The message is not one of a job server."""


def parse_message(text):
    """Return a message about a job as a dict; raise ProtocolError."""
    with suppress(ValueError, RecursionError):
        match json.loads(text):
            case {"token": str(), "status": str()} as message:
                return message
    raise ProtocolError(f"received {text[:80]!r}")


# --8<-- [start:main]
async def main():
    # http: becomes ws:, and https: becomes wss:
    url = f"{URL}/jobs/socket".replace("http", "ws", 1)
    async with asyncio.timeout(SECONDS + 30), connect(url) as ws:
        request = {"id": 1, "submit": {"seconds": SECONDS}}
        await ws.send(json.dumps(request))
        token, pushed = None, {}
        while token not in pushed:
            message = parse_message(await ws.recv())
            print(json.dumps(message), flush=True)
            if message.get("id") == 1:  # the response
                token = message["token"]
            else:
                pushed[message["token"]] = message
    if pushed[token]["status"] != "done":
        sys.exit("the job failed")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (InvalidHandshake, ProtocolError) as error:
        sys.exit(f"{URL} is not a job server: {error}")
    except (ImportError, OSError, WebSocketException) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
