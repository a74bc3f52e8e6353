# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Receive notifications by long polling.

It runs until stopped, or until MAX_FAILURES attempts in a row have
failed.

- Run: `uv run client_poll.py`
- or: `pip install httpx2==2.16.2 && python client_poll.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Prefer and wait, RFC 7240 §2 and §4.3; Retry-After, RFC 9110
  §10.2.3
"""

import asyncio
import os
import random
import sys
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
USER_ID = os.environ.get("USER_ID", "ann")
TOPICS = os.environ.get("TOPICS", "deploys server").split()
COUNT = int(os.environ.get("COUNT", 0))  # notifications; 0: no end
# Between two polls without a notification, however early the response:
# a proxy may drop Prefer, and then the server holds no poll.
POLL_INTERVAL = float(os.environ.get("POLL_INTERVAL", 5))  # seconds
BASE_DELAY = float(os.environ.get("BASE_DELAY", 5))  # seconds
MAX_FAILURES = int(os.environ.get("MAX_FAILURES", 10))  # in a row
MAX_RETRY_AFTER = 600  # seconds
TIMEOUT = httpx2.Timeout(5, read=35)  # s; the server holds for 25


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


def parse_page(response):
    """Return a response's notifications, and where to resume."""
    with suppress(RecursionError, ValueError):  # not even JSON
        match response.json():
            case {"notifications": [*page], "after": int() as after}:
                return list(map(parse_notification, page)), after
    raise ProtocolError(f"received {response.text!r:.80}")
# --8<-- [end:parse_notification]


# --8<-- [start:follow]
async def follow(client, handle):
    """Call handle(notification) for each one, until it is True.

    Raise RetryError after MAX_FAILURES attempts in a row.
    """
    last, failures = 0, 0
    while failures < MAX_FAILURES:
        suggested, started = None, monotonic()
        try:
            query = {"user": USER_ID, "topic": TOPICS, "after": last}
            response = await client.get(
                f"{URL}/notifications",
                params=query,
                headers={"Prefer": "wait=25"},
            )
            check_status(response)
        except CursorExpired:
            last = 0  # the oldest that the server has
            problem = "events are missing, resuming with the oldest"
        except Unavailable as error:
            problem, suggested = error.args
        except httpx2.UnsupportedProtocol:
            raise  # retrying does not help
        except httpx2.TransportError as error:
            problem = type(error).__name__
        else:
            page, after = parse_page(response)
            new = [event for event in page if event["id"] > last]
            for notification in new:
                if handle(notification):
                    return
            last, failures = max(last, after), 0
            if not new:
                took = monotonic() - started
                await asyncio.sleep(POLL_INTERVAL - took)
            continue
        print(f"retrying: {problem}", flush=True)
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
    except ProtocolError as error:
        sys.exit(f"{URL} is not a notification server: {error}")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
