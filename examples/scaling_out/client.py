# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""A client that resumes after the last event, at any gateway.

It runs until stopped, or until it has printed COUNT events.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
- Needs: cluster.py, running; its address is in URL (default
  http://127.0.0.1:8000), or those of several gateways, separated by
  blanks
- Source: the delay before a reconnect, RFC 6455 §7.2.3
"""

import asyncio
import json
import os
import random
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import cycle

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
OPEN_TIMEOUT = float(os.environ.get("OPEN_TIMEOUT", 30))  # s
BASE_DELAY = float(os.environ.get("BASE_DELAY", 5))  # s
MAX_FAILURES = int(os.environ.get("MAX_FAILURES", 10))  # in a row
MAX_RETRY_AFTER = 600  # seconds


class RetryError(Exception):
    """Reconnecting does not help, or has not helped."""


class CursorExpired(Exception):
    """The log does not contain what comes after the last event."""


class ProtocolError(Exception):
    """The server sent a message that is not an event."""


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


def suggested_delay(error):
    """Return the delay that a rejected handshake suggests, or None."""
    if isinstance(error, InvalidStatus):
        values = error.response.headers.get_all("Retry-After")
        return retry_after(values[0]) if values else None
    return None


# --8<-- [start:parse]
def parse_event(message):
    """Return the id, as a pair of numbers, and the event.

    Ids are compared as numbers: as text, 9-0 is higher than 10-0. A
    heartbeat has no id, and counts as the lowest.
    """
    with suppress(KeyError, RecursionError, TypeError, ValueError):
        event = json.loads(message)
        if "heartbeat" in event:
            return (0, 0), event
        if isinstance(event["text"], str):
            return parse_id(event["id"]), event
    raise ProtocolError(f"{message[:100]!r} is not an event")


def parse_id(event_id):
    """Return an id as a pair of numbers."""
    found = re.fullmatch("([0-9]{1,20})-([0-9]{1,20})", event_id)
    if not found:
        raise ValueError(event_id)
    return int(found[1]), int(found[2])
# --8<-- [end:parse]


RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


def is_final(error):
    """Return whether the next attempt to connect would fail, too."""
    if isinstance(error, InvalidStatus):
        return error.response.status_code not in RETRY_STATUSES
    return process_exception(error) is not None


# --8<-- [start:follow]
async def follow(urls, handle, seen="0-0", show=print):
    """Call handle(event) once for every event, in order.

    Returns when that returns True. Raises RetryError if a gateway
    refuses the client, or after MAX_FAILURES failures in a row; and
    what connect() raises if no attempt has ever connected, or if a
    retry is no use.
    """
    failures, ever_connected = 0, False
    for url in cycle(urls):  # after a failure, at the next one
        suggested = None
        try:
            async with connect(
                f"{url}/events?after={seen}",
                ping_interval=PING_INTERVAL,
                ping_timeout=PING_TIMEOUT,
                open_timeout=OPEN_TIMEOUT,
                close_timeout=1,  # s; a dead peer sends no Close
            ) as websocket:
                ever_connected = True
                with suppress(ConnectionClosed):
                    async for message in websocket:
                        event_id, event = parse_event(message)
                        failures = 0  # an open connection is not enough
                        if event_id <= parse_id(seen):
                            continue  # a heartbeat, or a duplicate
                        seen = event["id"]
                        if handle(event):
                            return
                show(check_close(websocket), flush=True)
        except CursorExpired as error:
            show(f"{error}: starting with the oldest event", flush=True)
            seen = "0-0"
        except (OSError, TimeoutError, WebSocketException) as error:
            tried_all = url == urls[-1]
            if not ever_connected and tried_all:
                raise
            if is_final(error):
                raise
            suggested = suggested_delay(error)
        failures += 1
        if failures == MAX_FAILURES:
            raise RetryError(f"{failures} failures in a row")
        await asyncio.sleep(backoff_delay(failures - 1, suggested))


def check_close(websocket):
    """Describe how a connection was closed; raise if it is final."""
    code, reason = websocket.close_code, websocket.close_reason
    if code == 4410:
        raise CursorExpired(f"events are missing, {reason}")
    if code == 1008 or code >= 4000:
        raise RetryError(f"closed with {code}: {reason}")
    return f"closed with {code}, reconnecting"
# --8<-- [end:follow]


async def main():
    texts = []

    def handle(event):
        texts.append(event["text"])
        print(event["text"], flush=True)
        return len(texts) == COUNT

    urls = URL.replace("http", "ws").split()
    await follow(urls, handle)
    print(f"{len(texts)} events, {len(set(texts))} different")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ImportError, InvalidProxy) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
    except InvalidStatus as error:
        status = error.response.status_code
        sys.exit(f"{URL} responded with {status}")
    except (OSError, TimeoutError, WebSocketException) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except RetryError as error:
        sys.exit(f"disconnected from {URL}: {error}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a server of events: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
