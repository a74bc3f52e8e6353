# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""WRONG: sends again whatever got no answer, orders as well.

- Run: `uv run wrong_retry_post.py`
- or: `pip install httpx2==2.16.2 && python wrong_retry_post.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: what may be sent again, RFC 9110 §9.2.2;
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
BACKOFF = float(os.environ.get("BACKOFF", 0.5))  # s, the first bound
TRIES = int(os.environ.get("TRIES", 6))
LONGEST = 60  # s; who is told to wait for longer gives up

# --8<-- [start:send]
def wait(failures):
    """Return how many seconds to wait: at random, below a bound."""
    return random.uniform(0, BACKOFF * 2**failures)


async def send(client, method, path):
    """Send a request until there is an answer; return that."""
    for failures in range(TRIES):
        later = 0
        try:
            answer = await client.request(method, path)
            if answer.status_code not in {429, 502, 503, 504}:
                return answer
            later = retry_after(answer.headers)
            print(f"{method}: {answer.status_code}")
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            print(f"{method}: {error!r}")  # it never got there
        except httpx2.UnsupportedProtocol:
            raise  # that is no address
        except httpx2.TransportError as error:
            print(f"{method}: {error!r}")
        await asyncio.sleep(later + wait(failures))
    raise GaveUp(f"{TRIES} tries")
# --8<-- [end:send]


class GaveUp(Exception):
    """Asking again does not help, or did not."""


# --8<-- [start:later]
def retry_after(headers):
    """Return how many seconds the server asks us to wait, or 0.

    It may name them, or a date; GaveUp if that is too far away.
    """
    value = headers.get("Retry-After", "")
    if value.isdecimal():
        seconds = int(value)
    else:
        try:
            then = parsedate_to_datetime(value)
            seconds = (then - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            seconds = 0  # neither, or nothing
    if seconds > LONGEST:
        raise GaveUp(f"told to come back after {value}")
    return max(0, seconds)
# --8<-- [end:later]


# --8<-- [start:main]
async def main():
    async with httpx2.AsyncClient(base_url=URL) as client:
        before = await send(client, "GET", "/orders")
        for _ in range(2):
            placed = await send(client, "POST", "/orders")
            print("order", placed.raise_for_status().json()["order"])
        after = await send(client, "GET", "/orders")
    count = after.json()["orders"] - before.json()["orders"]
    print(f"2 orders wanted, {count} placed")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except GaveUp as error:
        sys.exit(f"gave up: {error}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not take orders: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
