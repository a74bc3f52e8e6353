# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Print each event once, reconnecting and resuming where it must.

It runs until stopped, or until the server rejects it for good, or
until TRIES attempts in a row have failed.

- Run: `uv run client_hardened.py`
- or: `pip install websockets==17.4 && python client_hardened.py`
- Needs: server_hardened.py or server.py, running; its address is in
  URL (default http://127.0.0.1:8000)
- Source: reconnecting after a delay, RFC 6455 §7.2.3; close codes,
  RFC 6455 §7.4; Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import json
import os
import random
import sys
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from websockets.asyncio.client import connect
from websockets.client import process_exception
from websockets.datastructures import MultipleValuesError
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
BACKOFF = float(os.environ.get("BACKOFF", 5))  # s, the first bound
TRIES = int(os.environ.get("TRIES", 10))  # in a row
MAX_RETRY_AFTER = 600  # s; beyond it, give up


class RetryError(Exception):
    """Another attempt would fail as well, or enough have failed."""


class CursorExpired(Exception):
    """The server cannot resume after the last event."""


class ProtocolError(Exception):
    """The message is not an event."""


def parse_event(message):
    """Return an event as (id, text); raise ProtocolError."""
    with suppress(RecursionError, ValueError):
        match json.loads(message):
            case {"id": int() as number, "text": str() as text}:
                if text.isprintable():  # no escape sequences
                    return number, text
    raise ProtocolError(f"received {message[:80]!r}")


# --8<-- [start:backoff_delay]
def backoff_delay(failures, at_least):
    """Return how many seconds to wait before reconnecting.

    As long as the server specifies, and a random time of up to 5, 10,
    20, 40, 60 seconds more: doubled with each failure in a row.
    """
    jitter = random.uniform(0, BACKOFF * min(2**failures, 12))
    return at_least + jitter
# --8<-- [end:backoff_delay]


# --8<-- [start:receive_events]
async def receive_events(url):
    """Yield each event once, over as many connections as it takes."""
    failures, query, last, expired = 0, "", 0, False
    while failures < TRIES:
        at_least = 0
        try:
            async with connect(
                url + query,
                ping_interval=PING_INTERVAL,
                ping_timeout=PING_TIMEOUT,
                close_timeout=1,  # s: a dead server sends no Close
            ) as websocket:
                with suppress(ConnectionClosed):
                    async for message in websocket:
                        number, text = parse_event(message)
                        failures = 0  # not before an event has arrived
                        if expired:
                            print(f"missed {number - last - 1} events")
                        last, expired = number, False
                        query = f"?after={number}"
                        yield number, text
            check_close(websocket)
        except CursorExpired:
            query, expired = "?after=0", True  # the oldest event
        except InvalidStatus as error:
            at_least = check_status(error.response)
        except (OSError, WebSocketException) as error:
            if process_exception(error):
                raise  # the next attempt would fail as well
            print(f"cannot connect: {error!r}", flush=True)
        await asyncio.sleep(backoff_delay(failures, at_least))
        failures += 1
    raise RetryError(f"{failures} failures in a row")
# --8<-- [end:receive_events]


# --8<-- [start:permanent]
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


def check_close(websocket):
    """Print the close code; raise RetryError if it is permanent."""
    code, reason = websocket.close_code, websocket.close_reason
    # These are permanent, but not 1001, 1012, 1013 …
    if code == 1008 or (code >= 4000 and code != 4410):
        raise RetryError(f"closed with {code} {reason!r}")
    print(f"closed with {code}", flush=True)
    if code == 4410:
        raise CursorExpired


def check_status(response):
    """Return how long to wait at least, in seconds.

    A permanent rejection raises RetryError, and a Retry-After that is
    too far away.
    """
    status, at_least = response.status_code, 0
    if status not in RETRY_STATUSES:
        raise RetryError(f"rejected with {status}")
    with suppress(MultipleValuesError):  # two of them: ignored
        at_least = max(0, retry_after(response) or 0)
    if at_least > MAX_RETRY_AFTER:
        raise RetryError(f"Retry-After is {at_least:.0f} s")
    print(f"rejected with {status} for {at_least:.0f} s", flush=True)
    return at_least
# --8<-- [end:permanent]


def retry_after(response):
    """Return the seconds that Retry-After specifies, or None.

    It is a number or one of three forms of a date (RFC 9110 §10.2.3
    and §5.6.7), all in GMT. Anything else is ignored.
    """
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (OverflowError, ValueError):
        return None
    # The form of asctime() names no time zone: it is GMT as well.
    delay = date.replace(tzinfo=UTC) - datetime.now(UTC)
    return delay.total_seconds()


async def main():
    # http: becomes ws:, and https: becomes wss:
    url = f"{URL}/events".replace("http", "ws", 1)
    received = 0
    async with aclosing(receive_events(url)) as events:
        async for number, text in events:
            print(number, text, flush=True)
            received += 1
            if received == COUNT:
                return


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RetryError as error:
        sys.exit(f"gave up: {error}")
    except (ImportError, InvalidProxy) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a server of events: {error}")
    except (ValueError, WebSocketException) as error:
        # ValueError: the host or the port of the URL is invalid.
        sys.exit(f"cannot connect to {URL}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
