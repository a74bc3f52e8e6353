# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: the reconnecting loop of websockets, and nothing else.

It waits after an attempt that failed. It does not wait after a
connection that was made and closed: a server that closes at once is
called again at once, as fast as the network allows.

- Run: `uv run wrong_client_spin.py`
- or: `pip install websockets==17.4 && python wrong_client_spin.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: waiting before coming back, RFC 6455 §7.2.3
"""

import asyncio
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.client import process_exception
from websockets.exceptions import ConnectionClosed, WebSocketException

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 0))  # events; 0: no end
CONNECTIONS = int(os.environ.get("CONNECTIONS", 100))  # then give up


async def main():
    waits = connections = events = 0

    def failed(error):
        nonlocal waits
        waits += connections > 0  # before the first one: give up
        return process_exception(error) if connections else error

    # --8<-- [start:loop]
    url = URL.replace("http", "ws", 1) + "/events"
    async for websocket in connect(url, process_exception=failed):
        connections += 1
        try:
            async for message in websocket:
                print(json.loads(message))
                events += 1
                if events == COUNT:
                    return
        except ConnectionClosed:
            pass
        if connections == CONNECTIONS:
            print(f"{connections} connections and {waits} waits")
            return
    # --8<-- [end:loop]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (OSError, TimeoutError, WebSocketException) as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
