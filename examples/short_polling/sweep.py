# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""What interval is right? Try several on jobs of one length.

For each interval two jobs run at once, ending a quarter and three
quarters into an interval, so that luck plays no part in when the
last question comes. Prints how often each client asked, and how
long after the job's end it knew, on average and at worst.

- Run: `uv run sweep.py`
- or: `pip install httpx2==2.16.2 && python sweep.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: the formulas are those of a uniform distribution
"""

import asyncio
import os
import sys
from time import monotonic

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
LENGTH = float(os.environ.get("LENGTH", 6))  # of a job, seconds
INTERVALS = [LENGTH / n for n in (1, 2, 3, 4)]
JOBS = 2  # for each interval


# --8<-- [start:poll]
async def poll(client, url, start, length, interval):
    """Poll one job; return (questions asked, intervals late)."""
    asked = 0
    while True:
        asked += 1
        # From start, and not from the last answer: no drift.
        await asyncio.sleep(start + asked * interval - monotonic())
        answer = await client.get(url)
        answer.raise_for_status()
        match answer.json()["status"]:
            case "done":
                late = monotonic() - start - length
                return asked, late / interval
            case other if other != "pending":
                raise ValueError(other)
# --8<-- [end:poll]


# --8<-- [start:submit]
async def submit(client, length):
    """Start a job of so many seconds; return (URL, start, length)."""
    start = monotonic()
    answer = await client.post(f"{URL}/jobs", json={"seconds": length})
    answer.raise_for_status()
    url = answer.url.join(answer.headers["Location"])
    return url, start, length
# --8<-- [end:submit]


# --8<-- [start:main]
async def main():
    async with httpx2.AsyncClient() as client:
        polls = []
        for interval in INTERVALS:
            for n in range(JOBS):
                spread = (n + 0.5) / JOBS - 0.5  # of one interval
                length = LENGTH + spread * interval
                job = await submit(client, length)
                polls.append((client, *job, interval))
        ran = await asyncio.gather(*(poll(*each) for each in polls))

    print("length/interval,requests,mean late,worst late")
    for n, interval in enumerate(INTERVALS):
        asked, late = zip(*ran[n * JOBS : (n + 1) * JOBS], strict=True)
        # Delays are rounded down to a quarter of an interval: a busy
        # machine adds some milliseconds, which are not the point.
        mean, worst = sum(late) / JOBS, max(late)
        print(
            f"{LENGTH / interval:g},{sum(asked) / JOBS:g},"
            f"{int(mean * 4) / 4:g},{int(worst * 4) / 4:g}"
        )
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not answer as a job server: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
