# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Receive notifications by WebSocket, each once, and say so.

What has been received is a line in a file, and the last line tells
where to go on: what it is and that it was seen are one write.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: waiting before coming back, RFC 6455 §7.2.3
"""

import asyncio
import json
import os
import random
import sys
from contextlib import suppress
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.client import process_exception
from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    WebSocketException,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
WHO = os.environ.get("WHO", "ann")
TOPICS = os.environ.get("TOPICS", "deploys server").split()
INBOX = os.environ.get("INBOX", "inbox.jsonl")  # the file
COUNT = int(os.environ.get("COUNT", 0))  # notifications; 0: no end
BACKOFF = float(os.environ.get("BACKOFF", 5))  # s, the first bound
TRIES = int(os.environ.get("TRIES", 10))  # in a row, then give up


class GaveUp(Exception):
    """Coming back does not help, or did not."""


# --8<-- [start:inbox]
class Inbox:
    """What was received: a line for each, appended in one write."""

    def __init__(self, path):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self.file = os.open(path, flags, 0o600)
        with open(path, encoding="utf-8") as lines:
            self.notes = [json.loads(line) for line in lines]
        self.seen = self.notes[-1]["id"] if self.notes else None

    def take(self, note):
        """Keep a notification; return whether it is new."""
        if self.seen is not None and note["id"] <= self.seen:
            return False  # it came twice, as it may
        line = json.dumps(note) + "\n"
        os.write(self.file, line.encode())
        self.seen = note["id"]
        return True
# --8<-- [end:inbox]


# --8<-- [start:follow]
async def follow(inbox, handle):
    """Call handle(note, new) for all that comes, until it is True."""
    failures, met = 0, False
    while failures < TRIES:
        query = {"user": WHO, "topic": TOPICS}
        if inbox.seen is not None:  # or else, where the server thinks
            query["after"] = inbox.seen
        url = f"{URL}/notifications/socket?{urlencode(query, True)}"
        try:
            async with connect(
                url.replace("http", "ws", 1), close_timeout=1
            ) as websocket:
                met = True
                with suppress(ConnectionClosed):
                    async for text in websocket:
                        failures = 0  # not before it says something
                        note = json.loads(text)
                        if "heartbeat" in note:
                            continue
                        done = handle(note, inbox.take(note))
                        # Only now, when it is kept.
                        await websocket.send(
                            json.dumps({"ack": note["id"]})
                        )
                        if done:
                            return
                code, why = websocket.close_code, websocket.close_reason
                if code == 1008 or code >= 4000:
                    raise GaveUp(f"refused with {code}: {why}")
                print(f"closed with {code}: coming back", flush=True)
        except (OSError, TimeoutError, WebSocketException) as error:
            if not met or process_exception(error):
                raise
        # At random, so that those who were cut off together do not
        # come back together; below a bound that doubles up to 12 times.
        bound = BACKOFF * min(2**failures, 12)
        await asyncio.sleep(random.uniform(0, bound))
        failures += 1
    raise GaveUp(f"{failures} failures in a row")
# --8<-- [end:follow]


async def main():
    inbox, taken = Inbox(INBOX), []

    def handle(note, new):
        number, to, text = note["id"], note["to"], note["text"]
        if new:
            taken.append(number)
        again = "" if new else ", again: dropped"
        print(f"{number} {to}: {text}{again}", flush=True)
        return len(taken) == COUNT

    await follow(inbox, handle)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except InvalidStatus as error:
        status = error.response.status_code
        sys.exit(f"{URL} answered {status}, not with a WebSocket")
    except (OSError, TimeoutError, WebSocketException) as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except GaveUp as error:
        sys.exit(f"gave up: {error}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} sends no notifications: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
