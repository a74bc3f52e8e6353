# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""A client that goes on where it was, at whichever gateway it comes to.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
- Needs: cluster.py, running; its address is in URL (default
  http://127.0.0.1:8000), or several, apart by spaces, if clients choose
- Source: waiting before coming back, RFC 6455 §7.2.3
"""

import asyncio
import json
import os
import random
import sys
from contextlib import suppress
from itertools import cycle

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
OPEN = float(os.environ.get("OPEN", 30))  # s to wait for a handshake
BACKOFF = float(os.environ.get("BACKOFF", 5))  # s, the first bound
TRIES = int(os.environ.get("TRIES", 10))  # in a row, then give up


def wait(failures):
    """Return how many seconds to wait after so many failures in a row.

    At random, so that clients that were cut off together do not come
    back together; below a bound that doubles, up to 12 * BACKOFF.
    """
    return random.uniform(0, BACKOFF * min(2**failures, 12))


class GaveUp(Exception):
    """Coming back does not help, or did not."""


# --8<-- [start:order]
def order(id):
    """Return the id of an event as something that can be compared."""
    milliseconds, number = id.split("-")
    return int(milliseconds), int(number)
# --8<-- [end:order]


# --8<-- [start:follow]
async def follow(urls, handle, seen="0-0", say=print):
    """Call handle(event) for every event, once and in order.

    Returns when that returns True. Raises GaveUp if a gateway refuses
    us, or after TRIES failures in a row; and what connect() raises if
    there never was a connection, or if trying again is no use.
    """
    failures, met = 0, False
    for url in cycle(urls):  # the next time, at the next one
        try:
            async with connect(
                f"{url}/events?after={seen}",
                ping_interval=PING,
                ping_timeout=PONG,
                open_timeout=OPEN,
                close_timeout=1,  # s; the dead answer no close
            ) as websocket:
                met = True
                with suppress(ConnectionClosed):
                    async for message in websocket:
                        failures = 0  # not before it says something
                        event = json.loads(message)
                        id = event.get("id", "0-0")
                        if order(id) <= order(seen):
                            continue  # a heartbeat, or seen before
                        seen = id
                        if handle(event):
                            return
                code = websocket.close_code
                if code == 1008 or code >= 4000:
                    reason = websocket.close_reason
                    raise GaveUp(f"refused with {code}: {reason}")
                say(f"closed with {code}; coming back", flush=True)
        except (OSError, TimeoutError, WebSocketException) as error:
            never = not met and url == urls[-1]  # tried them all
            if never or process_exception(error):
                raise
        failures += 1
        if failures == TRIES:
            raise GaveUp(f"{failures} failures in a row")
        await asyncio.sleep(wait(failures - 1))
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
