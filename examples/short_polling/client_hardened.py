# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Short polling with pacing, backoff, conditions and a deadline.

It polls when the server suggests, retries with backoff while the
server fails, sends conditional requests, and stops at a deadline.

- Run: `uv run client_hardened.py`
- or: `pip install httpx2==2.16.2 && python client_hardened.py`
- Needs: server_hardened.py or server.py, running; its address is in
  URL (default http://127.0.0.1:8000)
- Source: Retry-After, RFC 9110 §10.2.3; If-None-Match, RFC 9110
  §13.1.2; which requests may be repeated, RFC 9110 §9.2.2
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
SECONDS = float(os.environ.get("SECONDS", 4.5))  # length of the job
DEADLINE = float(os.environ.get("DEADLINE", 60))  # seconds, for all

MAX_RETRY_AFTER = 600  # seconds

# A rejected request was not processed: any of them may be repeated.
REJECTED = {408, 425, 429}
# Perhaps processed: only a request that is safe to repeat. A server
# whose timer ends the handler's work may respond with 503.
UNCERTAIN = {500, 502, 503, 504}


class ProtocolError(Exception):
    """The response is not that of a job server."""


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


# --8<-- [start:retry_after]
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
# --8<-- [end:retry_after]


# --8<-- [start:parse_job]
def parse_job(response):
    """Return a job: (status, its result or error once it has ended)."""
    response.raise_for_status()  # 404, 410 …: do not poll again
    with suppress(RecursionError, ValueError):  # no JSON at all
        match response.json():
            case {"status": "pending"}:
                return "pending", None
            case {"status": "done", "result": result}:
                return "done", result
            case {"status": "failed", "error": error}:
                return "failed", error
    raise ProtocolError(f"it sent {response.text[:40]!r}")
# --8<-- [end:parse_job]


# --8<-- [start:send_request]
async def send_request(client, method, url, **options):
    """Send a request; repeat it while the server is unavailable."""
    retried = REJECTED if method == "POST" else REJECTED | UNCERTAIN
    failures = 0
    while True:
        try:
            response = await client.request(method, url, **options)
            if response.status_code not in retried:
                return response
            problem = response.status_code
            suggested = retry_after(response)
        except httpx2.TransportError as error:
            if method == "POST":
                raise  # the job may have started all the same
            problem, suggested = type(error).__name__, None
        delay = backoff_delay(failures, suggested)
        failures += 1
        print(f"retrying: {problem}", flush=True)
        await asyncio.sleep(delay)
# --8<-- [end:send_request]


# --8<-- [start:submit_job]
async def submit_job(client):
    """Start a job; return the response."""
    response = await send_request(
        client, "POST", f"{URL}/jobs", json={"seconds": SECONDS}
    )
    parse_job(response)
    return response
# --8<-- [end:submit_job]


# --8<-- [start:poll_until_done]
async def poll_until_done(client, response):
    """Poll until the job has ended; return its status and value."""
    # Location may be relative to the URL of the request.
    url = response.url.join(response.headers.get("Location", ""))
    requests, status, condition = 0, "pending", {}
    while status == "pending":
        await asyncio.sleep(backoff_delay(1, retry_after(response)))
        response = await send_request(
            client, "GET", url, headers=condition
        )
        requests += 1
        if response.status_code != 304:  # 304: still as it was
            status, value = parse_job(response)
        if "ETag" in response.headers:
            condition = {"If-None-Match": response.headers["ETag"]}
        print(response.status_code, status, flush=True)
    return status, value, requests
# --8<-- [end:poll_until_done]


# --8<-- [start:main]
async def main():
    async with asyncio.timeout(DEADLINE), open_client() as client:
        submitted = await submit_job(client)
        job = await poll_until_done(client, submitted)
    status, value, requests = job
    if status == "failed":
        sys.exit(f"the job failed: {value}")
    print(f"done: {value} ({requests} requests)")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except TimeoutError:
        sys.exit(f"the job was not done within {DEADLINE:g} s")
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        sys.exit(f"cannot reach {URL}: {error}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a job server: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
