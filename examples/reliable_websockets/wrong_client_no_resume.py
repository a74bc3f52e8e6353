# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: a client that reconnects, and does not resume.

This is client.py without the id of the last event: the events that
are published while it is disconnected are lost.

- Run: `uv run wrong_client_no_resume.py`
- or: `pip install websockets==17.4 && python wrong_client_no_resume.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: the delay before a reconnect, RFC 6455 §7.2.3
"""

import asyncio
import json
import os
import random
import sys
from contextlib import suppress
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
COUNT = int(os.environ.get("COUNT", 0))  # events; 0: until stopped
PING_INTERVAL = float(os.environ.get("PING_INTERVAL", 20))  # s
PING_TIMEOUT = float(os.environ.get("PING_TIMEOUT", 20))  # s
# --8<-- [start:backoff_delay]
BASE_DELAY = float(os.environ.get("BASE_DELAY", 5))  # s
MAX_FAILURES = int(os.environ.get("MAX_FAILURES", 10))  # in a row
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
# --8<-- [end:backoff_delay]


def suggested_delay(error):
    """Return the delay that a rejected handshake suggests, or None."""
    if isinstance(error, InvalidStatus):
        values = error.response.headers.get_all("Retry-After")
        return retry_after(values[0]) if values else None
    return None


class RetryError(Exception):
    """Reconnecting does not help, or has not helped."""


class CursorExpired(Exception):
    """The server cannot resume after the last event."""


class ProtocolError(Exception):
    """What the server sent is not an event."""


def parse_event(message):
    """Return an event, or a heartbeat as an event with the id 0."""
    with suppress(RecursionError, ValueError):
        match json.loads(message):
            case {"id": int(), "text": str()} as event:
                return event
            case {"heartbeat": _}:
                return {"id": 0}
    raise ProtocolError(f"{message[:100]!r} is not an event")


# --8<-- [start:follow]
async def follow(url, handle):
    """Call handle(event) once for every event, in order.

    Returns when that returns True. Raises RetryError if the server
    refuses the client, or after MAX_FAILURES failures in a row; and
    what connect() raises if no attempt has ever connected, or if a
    retry is no use.
    """
    seen, expired, failures, ever_connected = 0, 0, 0, False
    while failures < MAX_FAILURES:
        suggested = None
        try:
            async with connect(
                f"{url}/events",
                ping_interval=PING_INTERVAL,
                ping_timeout=PING_TIMEOUT,
                close_timeout=1,  # s; a dead peer sends no Close
            ) as websocket:
                ever_connected = True
                with suppress(ConnectionClosed):
                    async for message in websocket:
                        event = parse_event(message)
                        failures = 0  # an open connection is not enough
                        if event["id"] <= seen:
                            continue  # a heartbeat, or a duplicate
                        if expired:
                            report_gap(expired, event["id"])
                            expired = 0
                        seen = event["id"]
                        if handle(event):
                            return
                check_close(websocket)
        except CursorExpired:
            # Start again, with the oldest event that the server has.
            seen, expired = 0, max(seen, expired)
        except (OSError, TimeoutError, WebSocketException) as error:
            if not ever_connected or is_final(error):
                raise
            suggested = suggested_delay(error)
        # However the connection ended, and even if cleanly: wait.
        await asyncio.sleep(backoff_delay(failures, suggested))
        failures += 1
    raise RetryError(f"{failures} failures in a row")
# --8<-- [end:follow]


# --8<-- [start:check_close]
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


def is_final(error):
    """Return whether the next attempt to connect would fail, too."""
    if isinstance(error, InvalidStatus):
        return error.response.status_code not in RETRY_STATUSES
    return process_exception(error) is not None


def check_close(websocket):
    """Print the close code; raise an exception if it is final."""
    code, reason = websocket.close_code, websocket.close_reason
    if code == 1008 or (code >= 4000 and code != 4410):
        raise RetryError(f"closed with {code}: {reason}")
    print(f"closed with {code}, reconnecting", flush=True)
    if code == 4410:
        raise CursorExpired(reason)


def report_gap(seen, oldest):
    """Print how many events are missing before the oldest one."""
    if oldest > seen:
        print(f"missed {oldest - seen - 1} events", flush=True)
    else:
        print(f"the log is a new one, from {oldest}", flush=True)
# --8<-- [end:check_close]


async def main():
    ids = []

    def handle(event):
        ids.append(event["id"])
        print(event["id"], event["text"], flush=True)
        return len(ids) == COUNT

    await follow(URL.replace("http", "ws", 1), handle)
    lost = ids[-1] - ids[0] + 1 - len(set(ids))
    duplicates = len(ids) - len(set(ids))
    print(
        f"{ids[0]} to {ids[-1]}: {lost} lost, {duplicates} duplicates"
    )


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ImportError, InvalidProxy) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
    except InvalidStatus as error:
        status = error.response.status_code
        sys.exit(f"{URL} responded with {status}, not a WebSocket")
    except (OSError, TimeoutError, WebSocketException) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except RetryError as error:
        sys.exit(f"disconnected from {URL}: {error}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a server of events: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
