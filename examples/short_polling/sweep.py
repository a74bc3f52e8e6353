# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Measure polling intervals on jobs of one length.

For each interval two jobs run at once, ending a quarter and three
quarters into an interval, so that chance does not decide when the
last poll comes. Prints how often each client polled, and how long
after the job's end it received the result, on average and at worst.

- Run: `uv run sweep.py`
- or: `pip install httpx2==2.16.2 && python sweep.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: the formulas are those of a uniform distribution
"""

import asyncio
import os
import sys
from contextlib import suppress
from time import monotonic

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
LENGTH = float(os.environ.get("LENGTH", 6))  # of a job, seconds
INTERVALS = [LENGTH / n for n in (1, 2, 3, 4)]
JOBS = 2  # for each interval


class ProtocolError(Exception):
    """The response is not that of a job server."""


# --8<-- [start:parse_job]
def parse_job(response):
    """Return whether the job in a response is done."""
    response.raise_for_status()
    with suppress(KeyError, RecursionError, TypeError, ValueError):
        status = response.json()["status"]
        return {"pending": False, "done": True}[status]
    raise ProtocolError(f"it sent {response.text[:40]!r}")
# --8<-- [end:parse_job]


# --8<-- [start:submit_job]
async def submit_job(client, length):
    """Start a job of so many seconds; return (URL, start, length)."""
    start = monotonic()
    job = {"seconds": length}
    response = await client.post(f"{URL}/jobs", json=job)
    parse_job(response)
    # Location may be relative to the URL of the request.
    url = response.url.join(response.headers.get("Location", ""))
    return url, start, length
# --8<-- [end:submit_job]


# --8<-- [start:poll_until_done]
async def poll_until_done(client, url, start, length, interval):
    """Poll one job; return (requests, how many intervals late)."""
    requests, done = 0, False
    while not done:
        requests += 1
        # From start and not from the last response: no drift.
        await asyncio.sleep(start + requests * interval - monotonic())
        done = parse_job(await client.get(url))
    late = monotonic() - start - length
    return requests, late / interval
# --8<-- [end:poll_until_done]


# --8<-- [start:main]
async def main():
    async with httpx2.AsyncClient() as client:
        polls = []
        for interval in INTERVALS:
            for n in range(JOBS):
                spread = (n + 0.5) / JOBS - 0.5  # of one interval
                length = LENGTH + spread * interval
                job = await submit_job(client, length)
                polls.append((client, *job, interval))
        measured = await asyncio.gather(
            *(poll_until_done(*poll) for poll in polls)
        )

    print("length/interval,requests,mean late,worst late")
    for n, interval in enumerate(INTERVALS):
        rows = measured[n * JOBS : (n + 1) * JOBS]
        requests, late = zip(*rows, strict=True)
        # Delays are rounded down to a quarter of an interval: a busy
        # machine adds some milliseconds, which are not the point.
        mean, worst = sum(late) / JOBS, max(late)
        print(
            f"{LENGTH / interval:g},{sum(requests) / JOBS:g},"
            f"{int(mean * 4) / 4:g},{int(worst * 4) / 4:g}"
        )
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (ImportError, httpx2.HTTPError) as error:
        sys.exit(f"cannot reach {URL}: {error}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a job server: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
