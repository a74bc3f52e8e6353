# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: a client that comes back, and not to where it was.

It survives as well as client.py does, but asks for no event by number:
what happened while it was away is lost.

- Run: `uv run wrong_client_no_resume.py`
- or: `pip install websockets==17.4 && python wrong_client_no_resume.py`
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

from websockets.asyncio.client import connect
from websockets.client import process_exception
from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    WebSocketException,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 0))  # events; 0: no end
PING = float(os.environ.get("PING", 20))  # s between pings
PONG = float(os.environ.get("PONG", 20))  # s to wait for a pong
# --8<-- [start:wait]
BACKOFF = float(os.environ.get("BACKOFF", 5))  # s, the first bound
TRIES = int(os.environ.get("TRIES", 10))  # in a row, then give up


def wait(failures):
    """Return how many seconds to wait after so many failures in a row.

    At random, so that clients that were cut off together do not come
    back together; below a bound that doubles, up to 12 * BACKOFF.
    """
    return random.uniform(0, BACKOFF * min(2**failures, 12))
# --8<-- [end:wait]


class GaveUp(Exception):
    """Coming back does not help, or did not."""


# --8<-- [start:follow]
async def follow(url, handle):
    """Call handle(event) for every event, once and in order.

    Returns when that returns True. Raises GaveUp if the server refuses
    us, or after TRIES failures in a row; and what connect() raises if
    there never was a connection, or if trying again is no use.
    """
    seen, failures, met = 0, 0, False
    while failures < TRIES:
        try:
            async with connect(
                f"{url}/events",
                ping_interval=PING,
                ping_timeout=PONG,
                close_timeout=1,  # s; the dead answer no close
            ) as websocket:
                met = True
                with suppress(ConnectionClosed):
                    async for message in websocket:
                        failures = 0  # not before it says something
                        event = json.loads(message)
                        if event.get("id", 0) <= seen:
                            continue  # a heartbeat, or seen before
                        seen = event["id"]
                        if handle(event):
                            return
                say_why(websocket, seen)
        except (OSError, TimeoutError, WebSocketException) as error:
            if not met or process_exception(error):
                raise
        # However it ended, and however cleanly: wait.
        await asyncio.sleep(wait(failures))
        failures += 1
    raise GaveUp(f"{failures} failures in a row")
# --8<-- [end:follow]


# --8<-- [start:why]
def say_why(websocket, seen):
    """Print the close code; raise GaveUp if it means: stay away."""
    code, reason = websocket.close_code, websocket.close_reason
    if code == 1008 or code >= 4000:  # and not 1001, 1006, 1012 …
        raise GaveUp(f"refused with {code}: {reason}")
    print(f"closed with {code}; coming back for {seen + 1}", flush=True)
# --8<-- [end:why]


async def main():
    numbers = []

    def handle(event):
        numbers.append(event["id"])
        print(event["id"], event["text"], flush=True)
        return len(numbers) == COUNT

    await follow(URL.replace("http", "ws", 1), handle)
    first, last = numbers[0], numbers[-1]
    lost = last - first + 1 - len(set(numbers))
    twice = len(numbers) - len(set(numbers))
    print(f"{first} to {last}: {lost} lost, {twice} twice")


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
        sys.exit(f"{URL} is no server of events: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
