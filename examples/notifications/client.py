# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Receive notifications over a WebSocket, and acknowledge each.

Each one that is received is a line in a file, and the last line is
where to resume: one write both stores it and remembers that. It runs
until stopped, or until MAX_FAILURES attempts in a row have failed.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: reconnecting after a delay, RFC 6455 §7.2.3; Retry-After,
  RFC 9110 §10.2.3
"""

import asyncio
import fcntl
import json
import os
import random
import sys
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.client import process_exception
from websockets.exceptions import (
    ConnectionClosed,
    InvalidProxy,
    InvalidStatus,
    WebSocketException,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
USER_ID = os.environ.get("USER_ID", "ann")
TOPICS = os.environ.get("TOPICS", "deploys server").split()
INBOX = os.environ.get("INBOX", "inbox.jsonl")  # the file
COUNT = int(os.environ.get("COUNT", 0))  # notifications; 0: no end
BASE_DELAY = float(os.environ.get("BASE_DELAY", 5))  # seconds
MAX_FAILURES = int(os.environ.get("MAX_FAILURES", 10))  # in a row
MAX_RETRY_AFTER = 600  # seconds


class ProtocolError(Exception):
    """What the server sent is not a notification."""


class CursorExpired(Exception):
    """The server cannot resume after the last notification."""


class RetryError(Exception):
    """Retrying does not help, or has not helped."""


class StorageError(Exception):
    """A notification could not be stored."""


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


def suggested_delay(error):
    """Return the delay that a rejected handshake suggests, or None."""
    if isinstance(error, InvalidStatus):
        values = error.response.headers.get_all("Retry-After")
        return retry_after(values[0]) if values else None
    return None


# --8<-- [start:parse_notification]
def parse_notification(data):
    """Return a notification, or raise ProtocolError."""
    match data:
        case {"id": int(), "to": str(), "text": str()}:
            return data
    raise ProtocolError(f"received {data!r:.80}")


def parse_message(message):
    """Return a notification, or None for a heartbeat."""
    with suppress(RecursionError, ValueError):  # not even JSON
        data = json.loads(message)
        if isinstance(data, dict) and "heartbeat" in data:
            return None
        return parse_notification(data)
    raise ProtocolError(f"received {message[:80]!r}")
# --8<-- [end:parse_notification]


# --8<-- [start:inbox]
class Inbox:
    """The notifications received: one line each, in a file.

    `last` is the id of the last one, or None without one. One
    client at a time uses the file, or both would add each line.
    """

    def __init__(self, path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.file = os.open(path, flags, 0o600)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{path}: another client uses this file")
        self.last = None
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    self.last = parse_message(line)["id"]
                except ProtocolError:
                    sys.exit(f"{path}: line {number} is damaged")

    def add(self, notification):
        """Store a notification; return whether it is new.

        Raise StorageError if the disk is full.
        """
        if self.last is not None and notification["id"] <= self.last:
            return False  # a duplicate, which the server may send
        line = json.dumps(notification).encode() + b"\n"
        size = os.fstat(self.file).st_size
        try:
            written = os.write(self.file, line)
        except OSError as error:
            raise StorageError(error) from error
        if written < len(line):
            os.ftruncate(self.file, size)
            raise StorageError("no space for the whole line")
        self.last = notification["id"]
        return True
# --8<-- [end:inbox]


# --8<-- [start:follow]
async def follow(inbox, handle):
    """Call handle(notification, new) for each one, until it is True.

    Raise RetryError after MAX_FAILURES attempts in a row.
    """
    failures = 0
    while failures < MAX_FAILURES:
        suggested = None
        try:
            async with connect(
                subscription_url(inbox), close_timeout=1
            ) as websocket:
                with suppress(ConnectionClosed):
                    async for message in websocket:
                        notification = parse_message(message)
                        failures = 0  # not before it sends something
                        if not notification:  # a heartbeat
                            continue
                        new = inbox.add(notification)
                        done = handle(notification, new)
                        # Only now that it is stored.
                        ack = {"ack": notification["id"]}
                        await websocket.send(json.dumps(ack))
                        if done:
                            return
                problem = check_close(websocket)
        except CursorExpired:
            inbox.last = 0  # the oldest that the server has
            problem = "events are missing, resuming with the oldest"
        except (OSError, TimeoutError, WebSocketException) as error:
            if is_final(error):
                raise
            suggested = suggested_delay(error)
            problem = error
        print(f"reconnecting: {problem}", flush=True)
        await asyncio.sleep(backoff_delay(failures, suggested))
        failures += 1
    raise RetryError(f"{failures} failures in a row: {problem}")


RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


def is_final(error):
    """Return whether the next attempt to connect would fail, too."""
    if isinstance(error, InvalidStatus):
        return error.response.status_code not in RETRY_STATUSES
    return process_exception(error) is not None


def subscription_url(inbox):
    """Return the URL that resumes after the last notification."""
    query = {"user": USER_ID, "topic": TOPICS}
    if inbox.last is not None:  # or after the last acknowledged
        query["after"] = inbox.last
    # http: becomes ws:, and https: becomes wss:
    url = f"{URL}/notifications/socket".replace("http", "ws", 1)
    return f"{url}?{urlencode(query, doseq=True)}"


def check_close(websocket):
    """Describe how a connection was closed; raise if it is final."""
    code, reason = websocket.close_code, websocket.close_reason
    if code == 4410:
        raise CursorExpired
    if code == 1008 or code >= 4000:
        raise RetryError(f"closed with {code}: {reason}")
    return f"closed with {code}"
# --8<-- [end:follow]


async def main():
    inbox, received = Inbox(INBOX), []

    def handle(notification, new):
        line = "{id} {to}: {text}".format(**notification)
        if new:
            received.append(notification["id"])
        print(line if new else f"{line} (duplicate)", flush=True)
        return len(received) == COUNT

    await follow(inbox, handle)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RetryError as error:
        sys.exit(f"gave up on {URL}: {error}")
    except StorageError as error:
        sys.exit(f"cannot store it in {INBOX}: {error}")
    except (ImportError, InvalidProxy) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
    except InvalidStatus as error:
        status = error.response.status_code
        sys.exit(f"{URL} responded with {status}, not a WebSocket")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a notification server: {error}")
    except (OSError, WebSocketException) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
