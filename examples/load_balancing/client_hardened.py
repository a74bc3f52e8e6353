# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Hold WebSocket connections open; count them for each instance.

Reconnects whenever one is closed, at random after a backoff.

- Run: `uv run client_hardened.py`
- or: `pip install websockets==17.4 && python client_hardened.py`
- Needs: server_hardened.py, running, or a load balancer in front of
  several; the address is in URL (default http://127.0.0.1:8000)
- Source: reconnecting after a delay, RFC 6455 §7.2.3
"""

import asyncio
import os
import random
import sys
from collections import Counter

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 30))  # connections
SECONDS = float(os.environ.get("SECONDS", 3600))  # to hold them
BACKOFF = float(os.environ.get("BACKOFF", 5))  # s, at most, at first


# --8<-- [start:hold]
class Connections:
    """Connections that are opened again whenever they are closed."""

    def __init__(self, count):
        self.count = count
        self.instances = {}  # connection number: its instance
        self.printed = None

    async def hold(self, number):
        """Hold one connection; raise if the first attempt fails."""
        failures, ever_connected = 0, False
        while True:
            try:
                async with connect(
                    f"{URL.replace('http', 'ws', 1)}/socket"
                ) as websocket:
                    self.instances[number] = await websocket.recv()
                    failures, ever_connected = 0, True
                    self.report()
                    async for _ in websocket:
                        pass
            except (OSError, TimeoutError, WebSocketException):
                if not ever_connected:
                    raise
            self.instances.pop(number, None)
            # Random, so that clients do not reconnect together.
            bound = BACKOFF * min(2**failures, 12)
            await asyncio.sleep(random.uniform(0, bound))
            failures += 1

    def report(self):
        """Print the number for each instance, if it has changed."""
        counts = sorted(Counter(self.instances.values()).items())
        complete = len(self.instances) == self.count
        if complete and counts != self.printed:
            self.printed = counts
            parts = (f"{name} {number}" for name, number in counts)
            print(", ".join(parts), flush=True)
# --8<-- [end:hold]


async def main():
    connections = Connections(COUNT)
    try:
        async with (
            asyncio.timeout(SECONDS),
            asyncio.TaskGroup() as group,
        ):
            for number in range(COUNT):
                group.create_task(connections.hold(number))
    except TimeoutError:
        pass  # SECONDS are over


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ExceptionGroup as group:  # all for the same reason
        sys.exit(f"cannot reach {URL}: {group.exceptions[0]!r}")
    except KeyboardInterrupt:
        sys.exit(130)
