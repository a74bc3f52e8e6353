# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""WRONG: asks again at once, whatever the server said.

- Run: `uv run wrong_retry_at_once.py`
- or: `pip install httpx2==2.16.2 && python wrong_retry_at_once.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: what may be sent again, RFC 9110 §9.2.2
"""

import asyncio
import os
import sys
import uuid

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
TRIES = int(os.environ.get("TRIES", 6))

# --8<-- [start:send]
IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}


async def send(client, method, path, key=None):
    """Send a request until there is an answer; return that.

    With a key the server recognises a request that it had before.
    """
    headers = {"Idempotency-Key": key} if key else {}
    safe = key or method in IDEMPOTENT  # to do twice
    # 429 refuses. The others may come of what was done, or half done.
    busy = {429, 502, 503, 504} if safe else {429}
    for _ in range(TRIES):
        try:
            answer = await client.request(method, path, headers=headers)
            if answer.status_code not in busy:
                return answer
            print(f"{method}: {answer.status_code}")
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            print(f"{method}: {error!r}")  # it never got there
        except httpx2.UnsupportedProtocol:
            raise  # that is no address
        except httpx2.TransportError as error:
            if not safe:
                raise  # it may have been done all the same
            print(f"{method}: {error!r}")
    raise GaveUp(f"{TRIES} tries")
# --8<-- [end:send]


class GaveUp(Exception):
    """Asking again does not help, or did not."""


# --8<-- [start:main]
async def main():
    async with httpx2.AsyncClient(base_url=URL) as client:
        before = await send(client, "GET", "/orders")
        for _ in range(2):
            key = str(uuid.uuid4())  # of the order, not of the try
            placed = await send(client, "POST", "/orders", key)
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
