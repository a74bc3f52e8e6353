# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Hold WebSocket connections open; count them for each instance.

Reconnects whenever one is closed, at random after a backoff, unless
that does not help.

- Run: `uv run client_hardened.py`
- or: `pip install websockets==17.4 && python client_hardened.py`
- Needs: server_hardened.py, running, or a load balancer in front of
  several; the address is in URL (default http://127.0.0.1:8000)
- Source: reconnecting after a delay, RFC 6455 §7.2.3; Retry-After,
  RFC 9110 §10.2.3
"""

import asyncio
import os
import random
import sys
from collections import Counter
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from websockets.asyncio.client import connect
from websockets.client import process_exception
from websockets.exceptions import (
    ConnectionClosed,
    InvalidProxy,
    InvalidStatus,
    WebSocketException,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 30))  # connections
SECONDS = float(os.environ.get("SECONDS", 3600))  # to hold them
BASE_DELAY = float(os.environ.get("BASE_DELAY", 5))  # seconds
MAX_RETRY_AFTER = 600  # seconds


def backoff_delay(failures, suggested=None):
    """Return how many seconds to wait before the next attempt.

    As long as Retry-After suggests, and a little longer, so that not
    all clients return together. Without it a random time of up to
    BASE_DELAY, which each failure in a row doubles, up to 12 times it.
    """
    if suggested is None:
        return random.uniform(0, BASE_DELAY * min(2**failures, 12))
    # At least half a second, even if it is 0 or a date in the past.
    delay = min(max(0.5, suggested), MAX_RETRY_AFTER)
    return delay * random.uniform(1, 1.1)


def retry_after(value):
    """Return the seconds to wait by a Retry-After, or None.

    It is a number or one of three forms of a date (RFC 9110 §10.2.3
    and §5.6.7), all in GMT. Anything else is ignored.
    """
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (OverflowError, ValueError):
        return None
    # The form of asctime() names no time zone: it is GMT as well.
    delay = date.replace(tzinfo=UTC) - datetime.now(UTC)
    return delay.total_seconds()


RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


def is_final(error):
    """Return whether the next attempt to connect would fail, too."""
    if isinstance(error, InvalidStatus):
        return error.response.status_code not in RETRY_STATUSES
    return process_exception(error) is not None


def suggested_delay(error):
    """Return the delay that a rejected handshake suggests, or None."""
    if isinstance(error, InvalidStatus):
        values = error.response.headers.get_all("Retry-After")
        return retry_after(values[0]) if values else None
    return None


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
            suggested = None
            try:
                async with connect(
                    f"{URL.replace('http', 'ws', 1)}/socket"
                ) as websocket:
                    self.instances[number] = await websocket.recv()
                    failures, ever_connected = 0, True
                    self.report()
                    async for _ in websocket:
                        pass
            except ConnectionClosed:
                if not ever_connected:
                    raise
            except (OSError, TimeoutError, WebSocketException) as error:
                if not ever_connected or is_final(error):
                    raise
                suggested = suggested_delay(error)
            self.instances.pop(number, None)
            await asyncio.sleep(backoff_delay(failures, suggested))
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
        error = group.exceptions[0]
        if isinstance(error, (ImportError, InvalidProxy)):
            names = [
                name
                for name in os.environ
                if name.lower().endswith("_proxy")
            ]
            sys.exit(f"cannot use {' or '.join(names)}: {error}")
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
