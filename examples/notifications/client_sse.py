# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Receive notifications as server-sent events.

It runs until stopped, or until MAX_FAILURES attempts in a row have
failed.

- Run: `uv run client_sse.py`
- or: `pip install httpx2==2.16.2 && python client_sse.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Last-Event-ID, WHATWG HTML §9.2.4,
  https://html.spec.whatwg.org/multipage/server-sent-events.html;
  Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import random
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
USER_ID = os.environ.get("USER_ID", "ann")
TOPICS = os.environ.get("TOPICS", "deploys server").split()
COUNT = int(os.environ.get("COUNT", 0))  # notifications; 0: no end
BASE_DELAY = float(os.environ.get("BASE_DELAY", 5))  # seconds
MAX_FAILURES = int(os.environ.get("MAX_FAILURES", 10))  # in a row
MAX_RETRY_AFTER = 600  # seconds
# The server sends at least a heartbeat every 15 seconds: after three
# times as long without a byte, the connection is dead.
TIMEOUT = httpx2.Timeout(5, read=45)  # seconds


class ProtocolError(Exception):
    """What the server sent is not a notification."""


class CursorExpired(Exception):
    """The server cannot resume after the last notification."""


class RetryError(Exception):
    """Retrying does not help, or has not helped."""


# --8<-- [start:open_client]
def open_client(**options):
    """Return an HTTP client that follows redirects.

    It uses the proxies that the environment names; one that it
    cannot use ends the program.
    """
    try:
        return httpx2.AsyncClient(follow_redirects=True, **options)
    except (ImportError, ValueError) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
# --8<-- [end:open_client]


# --8<-- [start:backoff_delay]
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


# --8<-- [start:check_status]
# The server, or a proxy in front of it, is overloaded or restarts.
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class Unavailable(Exception):
    """Try again later. Arguments: the problem, and the delay."""


def check_status(response):
    """Raise an exception if the request was not successful."""
    status = response.status_code
    if status in RETRY_STATUSES:
        suggested = retry_after(response.headers.get("Retry-After", ""))
        raise Unavailable(f"status {status}", suggested)
    if status == 410:
        raise CursorExpired
    response.raise_for_status()
# --8<-- [end:check_status]


# --8<-- [start:parse_notification]
def parse_notification(data):
    """Return a notification, or raise ProtocolError."""
    match data:
        case {"id": int(), "to": str(), "text": str()}:
            return data
    raise ProtocolError(f"received {data!r:.80}")


def parse_event(event):
    """Return the notification in the data of an event."""
    try:
        return parse_notification(event.json())
    except (RecursionError, ValueError):  # not even JSON
        raise ProtocolError(f"received {event.data!r:.80}") from None
# --8<-- [end:parse_notification]


# --8<-- [start:follow]
async def follow(client, handle):
    """Call handle(notification) for each one, until it is True.

    Raise RetryError after MAX_FAILURES attempts in a row.
    """
    last, failures = 0, 0
    while failures < MAX_FAILURES:
        suggested = stream = None
        try:
            async with client.sse(
                f"{URL}/notifications/events",
                params={"user": USER_ID, "topic": TOPICS},
                headers={"Last-Event-ID": str(last)},
            ) as source:
                check_status(source.response)
                stream = source.response
                stream.encoding = "utf-8-sig"  # a BOM may come first
                async for event in source:
                    if not event.data:
                        continue
                    notification = parse_event(event)
                    if notification["id"] <= last:
                        continue  # a duplicate
                    last, failures = notification["id"], 0
                    if handle(notification):
                        return
            problem = "the stream ended"
        except CursorExpired:
            last = 0  # the oldest that the server has
            problem = "events are missing, resuming with the oldest"
        except Unavailable as error:
            problem, suggested = error.args
        except (httpx2.SSEError, httpx2.UnsupportedProtocol):
            raise  # retrying does not help
        except httpx2.TransportError as error:
            problem = type(error).__name__
        # Heartbeats count, too. They are comments, which httpx2 skips.
        if stream and stream.num_bytes_downloaded:
            failures = 0
        print(f"reconnecting: {problem}", flush=True)
        await asyncio.sleep(backoff_delay(failures, suggested))
        failures += 1
    raise RetryError(f"{failures} failures in a row: {problem}")
# --8<-- [end:follow]


async def main():
    received = []

    def handle(notification):
        received.append(notification["id"])
        print("{id} {to}: {text}".format(**notification), flush=True)
        return len(received) == COUNT

    async with open_client(timeout=TIMEOUT) as client:
        await follow(client, handle)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RetryError as error:
        sys.exit(f"gave up on {URL}: {error}")
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (httpx2.SSEError, ProtocolError) as error:
        sys.exit(f"{URL} is not a notification server: {error}")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
