# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: comes back after the same time as everybody else.

- Run: `uv run wrong_fixed_delay.py`
- or: `pip install websockets==17.4 && python wrong_fixed_delay.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: waiting before coming back, RFC 6455 §7.2.3
"""

import asyncio
import json
import os
import sys

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
BACKOFF = float(os.environ.get("BACKOFF", 5))  # s, each time
TRIES = int(os.environ.get("TRIES", 10))  # in a row, then give up
LONGEST = 600  # s; who is told to wait for longer gives up


# --8<-- [start:wait]
def wait(failures):
    """Return how many seconds to wait: always the same."""
    return BACKOFF
# --8<-- [end:wait]


class GaveUp(Exception):
    """Coming back does not help, or did not."""


# --8<-- [start:follow]
async def follow(url, handle):
    """Call handle(event) for each event, until that returns True."""
    failures = 0
    while failures < TRIES:
        later = 0
        try:
            async with connect(
                url,
                ping_interval=PING,
                ping_timeout=PONG,
                close_timeout=1,  # s; the dead answer no close
            ) as websocket:
                async for message in websocket:
                    failures = 0  # not before it says something
                    if handle(json.loads(message)):
                        return
            refused(websocket)
        except ConnectionClosed:
            refused(websocket)
        except InvalidStatus as error:
            later = retry_after(error.response)
        except (OSError, TimeoutError, WebSocketException) as error:
            if process_exception(error):
                raise  # it would be the same again
            print(f"no connection: {error!r}", flush=True)
        # However it ended: what the server asks for, and jitter.
        await asyncio.sleep(later + wait(failures))
        failures += 1
    raise GaveUp(f"{failures} failures in a row")
# --8<-- [end:follow]


# --8<-- [start:why]
def refused(websocket):
    """Print the close code; raise GaveUp if it means: stay away."""
    code, reason = websocket.close_code, websocket.close_reason
    if code == 1008 or code >= 4000:  # and not 1001, 1012, 1013 …
        raise GaveUp(f"refused with {code}: {reason}")
    print(f"closed with {code}", flush=True)


def retry_after(response):
    """Return the seconds of Retry-After; raise GaveUp without hope."""
    status = response.status_code
    if status != 429 and status < 500:  # it would be the same again
        raise GaveUp(f"refused with {status}")
    seconds = response.headers.get("Retry-After", "0")
    later = int(seconds) if seconds.isdecimal() else 0
    if later > LONGEST:
        raise GaveUp(f"told to come back after {later} s")
    print(f"answered {status}: not before {later} s", flush=True)
    return later
# --8<-- [end:why]


async def main():
    numbers = 0

    def handle(event):
        nonlocal numbers
        numbers += 1
        print(event["text"], flush=True)
        return numbers == COUNT

    await follow(URL.replace("http", "ws", 1) + "/events", handle)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except GaveUp as error:
        sys.exit(f"gave up: {error}")
    except WebSocketException as error:
        sys.exit(f"no WebSocket at {URL}: {error!r}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} is no server of events: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
