# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Print messages, and reconnect after each failure with backoff.

It runs until stopped.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: reconnecting after a delay, RFC 6455 §7.2.3
"""

import asyncio
import os
import random
import sys

from websockets import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.asyncio.client import connect

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = float(os.environ.get("COUNT", "inf"))  # messages
BACKOFF = float(os.environ.get("BACKOFF", 5))  # s, the first bound


# --8<-- [start:backoff_delay]
def backoff_delay(failures):
    """Return how many seconds to wait before reconnecting.

    Full jitter: a random time of up to 5, 10, 20, 40, 60 seconds,
    where each failure in a row doubles the bound.
    """
    return random.uniform(0, BACKOFF * min(2**failures, 12))
# --8<-- [end:backoff_delay]


# --8<-- [start:main]
async def main():
    # http: becomes ws:, and https: becomes wss:
    url = f"{URL}/events".replace("http", "ws", 1)
    received = failures = 0
    while received < COUNT:
        try:
            async with connect(url) as websocket:
                while received < COUNT:
                    print(await websocket.recv(), flush=True)
                    received += 1
                    failures = 0  # not before a message has arrived
        except (OSError, ConnectionClosed, InvalidHandshake) as error:
            print(f"reconnecting: {error}", flush=True)
            await asyncio.sleep(backoff_delay(failures))
            failures += 1
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ImportError, InvalidURI, ValueError) as error:
        # ValueError: the host or the port; ImportError: a SOCKS proxy
        sys.exit(f"cannot connect to {URL}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
