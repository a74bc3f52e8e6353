# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Holds sockets open and says which copy of the server has how many.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
- Needs: server.py, running, or a balancer in front of several; the
  address is in URL (default http://127.0.0.1:8000)
- Source: waiting before coming back, RFC 6455 §7.2.3
"""

import asyncio
import os
import random
import sys
from collections import Counter

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 30))  # sockets
SECONDS = float(os.environ.get("SECONDS", 3600))  # to hold them
BACKOFF = float(os.environ.get("BACKOFF", 5))  # s, the first bound


# --8<-- [start:hold]
class Held:
    """So many sockets, each opened again whenever it is closed."""

    def __init__(self, count):
        self.count = count
        self.where = {}  # number of a socket: the copy that has it
        self.said = None

    async def hold(self, number):
        """Keep one socket; raise if it can't be opened at first."""
        failures, met = 0, False
        while True:
            try:
                async with connect(
                    f"{URL.replace('http', 'ws', 1)}/socket"
                ) as websocket:
                    self.where[number] = await websocket.recv()
                    failures, met = 0, True
                    self.report()
                    async for _ in websocket:
                        pass
            except (OSError, TimeoutError, WebSocketException):
                if not met:
                    raise
            self.where.pop(number, None)
            # At random, so that those who left do not return at once.
            bound = BACKOFF * min(2**failures, 12)
            await asyncio.sleep(random.uniform(0, bound))
            failures += 1

    def report(self):
        """Print who has how many, when that is not what it was."""
        counts = sorted(Counter(self.where.values()).items())
        if len(self.where) == self.count and counts != self.said:
            self.said = counts
            words = (f"{name} {number}" for name, number in counts)
            print(", ".join(words), flush=True)
# --8<-- [end:hold]


async def main():
    held = Held(COUNT)
    try:
        async with (
            asyncio.timeout(SECONDS),
            asyncio.TaskGroup() as group,
        ):
            for number in range(COUNT):
                group.create_task(held.hold(number))
    except TimeoutError:
        pass  # held for as long as it was to be


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ExceptionGroup as group:  # all failed, and in the same way
        sys.exit(f"no socket at {URL}: {group.exceptions[0]!r}")
    except KeyboardInterrupt:
        sys.exit(130)
