# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: counts a connection as a success.

This is client.py, with another place for `failures = 0`. It runs until
stopped.

- Run: `uv run wrong_counts_connect.py`
- or: `pip install websockets==17.4 && python wrong_counts_connect.py`
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


def backoff_delay(failures):
    """Return how many seconds to wait before reconnecting.

    Full jitter: a random time of up to 5, 10, 20, 40, 60 seconds,
    where each failure in a row doubles the bound.
    """
    return random.uniform(0, BACKOFF * min(2**failures, 12))


async def main():
    # http: becomes ws:, and https: becomes wss:
    url = f"{URL}/events".replace("http", "ws", 1)
    received = failures = 0
    while received < COUNT:
        try:
            async with connect(url) as websocket:
                failures = 0
                while received < COUNT:
                    print(await websocket.recv(), flush=True)
                    received += 1
        except (OSError, ConnectionClosed, InvalidHandshake) as error:
            print(f"reconnecting: {error}", flush=True)
            await asyncio.sleep(backoff_delay(failures))
            failures += 1


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ImportError, InvalidURI, ValueError) as error:
        # ValueError: the host or the port; ImportError: a SOCKS proxy
        sys.exit(f"cannot connect to {URL}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
