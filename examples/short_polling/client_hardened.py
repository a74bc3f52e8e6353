# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Short polling as a good guest: paced, patient, and with an end.

Asks when the server suggests, backs off when it is in trouble,
spends no bytes on what it knows, and gives up at a deadline.

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
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the job's length
DEADLINE = float(os.environ.get("DEADLINE", 60))  # seconds, for all

# Worth another try. A question may be asked again whatever went
# wrong. A job may be handed in again only if it was surely refused.
TRY_AGAIN = {
    "GET": {425, 429, 500, 502, 503, 504},
    "POST": {429, 503},
}


# --8<-- [start:wait]
def wait(failures, retry_after):
    """Return how many seconds to wait before the next question.

    The server's own word comes first, in seconds or as a date. A
    little is added, never taken, so that clients that were told the
    same do not return together. Without a word, wait at random up to
    1, 2, 4 … 30 seconds: doubled with each failure in a row.
    """
    if retry_after is None:
        return random.uniform(0, min(30, 2**failures))
    try:
        seconds = float(retry_after)
    except ValueError:
        date = parsedate_to_datetime(retry_after)
        seconds = (date - datetime.now(UTC)).total_seconds()
    # "At once" for ever would be a flood: half a second at least.
    return max(0.5, seconds) * random.uniform(1, 1.1)
# --8<-- [end:wait]


# --8<-- [start:request]
async def request(client, method, url, **options):
    """Send a request, and again while the server is in trouble."""
    failures = 0
    while True:
        try:
            answer = await client.request(method, url, **options)
            if answer.status_code not in TRY_AGAIN[method]:
                return answer
            problem = answer.status_code
            pause = wait(failures, answer.headers.get("Retry-After"))
        except httpx2.TransportError as error:
            if method == "POST":
                raise  # it may have been done all the same
            problem = error
            pause = wait(failures, None)
        failures += 1
        print(f"trouble: {problem!r}, waiting", flush=True)
        await asyncio.sleep(pause)
# --8<-- [end:request]


# --8<-- [start:poll]
async def poll(client, url, pause):
    """Ask until the job is done; return its last status."""
    known = {}
    while True:
        await asyncio.sleep(pause)
        answer = await request(client, "GET", url, headers=known)
        if answer.status_code != 304:  # 304: what we know holds
            answer.raise_for_status()  # 404, 410 …: stop asking
            job = answer.json()
        print(answer.status_code, job["status"], flush=True)
        if job["status"] != "pending":
            return job
        if "ETag" in answer.headers:
            known = {"If-None-Match": answer.headers["ETag"]}
        pause = wait(1, answer.headers.get("Retry-After"))
# --8<-- [end:poll]


# --8<-- [start:main]
async def main():
    async with (
        asyncio.timeout(DEADLINE),
        httpx2.AsyncClient() as client,
    ):
        answer = await request(
            client, "POST", f"{URL}/jobs", json={"seconds": SECONDS}
        )
        answer.raise_for_status()
        url = answer.url.join(answer.headers["Location"])
        pause = wait(0, answer.headers.get("Retry-After"))
        job = await poll(client, url, pause)
    if job["status"] != "done":
        sys.exit(f"the job {job['status']}: {job['error']}")
    print("the result is", job["result"])
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except TimeoutError:
        sys.exit(f"not done within {DEADLINE:g} seconds: gave up")
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not answer as a job server: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
