# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Short polling with pacing, backoff, conditions and a deadline.

It polls when the server suggests, retries with backoff while the
server fails, asks only for changes, and stops at a deadline.

- Run: `uv run client_hardened.py`
- or: `pip install httpx2==2.16.2 && python client_hardened.py`
- Needs: server_hardened.py or server.py, running; its address is in
  URL (default http://127.0.0.1:8000)
- Source: Retry-After, RFC 9110 §10.2.3; If-None-Match, RFC 9110
  §13.1.2
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

# A poll may be repeated after any failure, a submission only if the
# server certainly rejected it.
RETRIED = {
    "GET": {425, 429, 500, 502, 503, 504},
    "POST": {429, 503},
}


class ProtocolError(Exception):
    """The response is not that of a job server."""


# --8<-- [start:backoff_delay]
def backoff_delay(failures, retry_after):
    """Return how many seconds to wait before the next request.

    Retry-After comes first, in seconds or as a date. A random part
    is added and never subtracted, so that clients that were told the
    same do not return together. Without it the delay is random, up
    to 1, 2, 4 … 30 seconds: doubled with each failure in a row.
    """
    if retry_after is None:
        return random.uniform(0, min(30, 2**failures))
    try:
        seconds = float(retry_after)
    except ValueError:
        date = parsedate_to_datetime(retry_after)
        seconds = (date - datetime.now(UTC)).total_seconds()
    # A server that always sends 0 must not be flooded.
    return max(0.5, seconds) * random.uniform(1, 1.1)
# --8<-- [end:backoff_delay]


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
    """Send a request; repeat it while the server fails."""
    failures = 0
    while True:
        try:
            response = await client.request(method, url, **options)
            if response.status_code not in RETRIED[method]:
                return response
            problem = response.status_code
            retry_after = response.headers.get("Retry-After")
        except httpx2.TransportError as error:
            if method == "POST":
                raise  # the job may have started all the same
            problem, retry_after = repr(error), None
        delay = backoff_delay(failures, retry_after)
        failures += 1
        print(f"retrying in {delay:.1f} s: {problem}", flush=True)
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
        retry_after = response.headers.get("Retry-After")
        await asyncio.sleep(backoff_delay(1, retry_after))
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
    async with (
        asyncio.timeout(DEADLINE),
        httpx2.AsyncClient() as client,
    ):
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
    except httpx2.HTTPError as error:
        sys.exit(f"cannot reach {URL}: {error}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a job server: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
