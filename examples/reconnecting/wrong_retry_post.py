# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""WRONG: repeats any request, also one that creates an order.

This is retry.py without an Idempotency-Key.

- Run: `uv run wrong_retry_post.py`
- or: `pip install httpx2==2.16.2 && python wrong_retry_post.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: which requests may be repeated, RFC 9110 §9.2.2;
  Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import random
import sys
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
TRIES = int(os.environ.get("TRIES", 6))  # requests in a row
DEADLINE = float(os.environ.get("DEADLINE", 120))  # seconds, for all

MAX_RETRY_AFTER = 600  # seconds


class RetryError(Exception):
    """As many requests as allowed have failed."""


class ProtocolError(Exception):
    """The response is not that of a server of orders."""


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


def backoff_delay(failures, suggested=None):
    """Return how many seconds to wait before the next request.

    Retry-After comes first. A random part is added and never
    subtracted, so that clients with the same value do not return
    together. Without it the delay is random, up to 1, 2, 4 … 30
    seconds: doubled with each failure in a row.
    """
    if suggested is None:
        return random.uniform(0, min(30, 2 ** min(failures, 5)))
    # At least half a second, even if it is 0 or a date in the past.
    delay = min(max(0.5, suggested), MAX_RETRY_AFTER)
    return delay * random.uniform(1, 1.1)


# A rejected request was not processed: any of them may be repeated.
REJECTED = {408, 425, 429}
# Perhaps processed: only a request that is safe to repeat. A server
# whose timer ends the handler's work may respond with 503.
UNCERTAIN = {500, 502, 503, 504}


async def send_request(client, method, path, key=None):
    """Send a request; repeat it while that is safe and may help.

    By the key the server recognizes a request that it has processed.
    """
    headers = {"Idempotency-Key": key} if key else {}
    repeatable = True
    retried = REJECTED | UNCERTAIN if repeatable else REJECTED
    for failures in range(TRIES):
        suggested = None
        try:
            response = await client.request(
                method, path, headers=headers
            )
            if response.status_code not in retried:
                return response
            problem = response.status_code
            suggested = retry_after(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            problem = type(error).__name__  # it was never sent
        except httpx2.UnsupportedProtocol:
            raise  # not an http URL
        except httpx2.TransportError as error:
            if not repeatable:
                raise  # it may have been processed all the same
            problem = type(error).__name__
        print(f"{method}: {problem} (Retry-After: {suggested})")
        await asyncio.sleep(backoff_delay(failures, suggested))
    raise RetryError(f"{TRIES} requests failed")


def parse_number(response, name):
    """Return a number of the response by its name."""
    response.raise_for_status()
    with suppress(RecursionError, ValueError):  # no JSON at all
        body = response.json()
        if isinstance(body, dict) and type(body.get(name)) is int:
            return body[name]
    raise ProtocolError(f"it sent {response.text[:40]!r}")


async def count_orders(client):
    response = await send_request(client, "GET", "/orders")
    return parse_number(response, "orders")


async def main():
    async with (
        asyncio.timeout(DEADLINE),
        open_client(base_url=URL) as client,
    ):
        before = await count_orders(client)
        for _ in range(2):
            response = await send_request(client, "POST", "/orders")
            print("order", parse_number(response, "order"))
        placed = await count_orders(client) - before
    print(f"2 orders wanted, {placed} placed")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except TimeoutError:
        sys.exit(f"not done within {DEADLINE:g} s")
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        sys.exit(f"cannot reach {URL}: {error}")
    except RetryError as error:
        sys.exit(f"gave up: {error}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a server of orders: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
