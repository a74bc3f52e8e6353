# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""What interval is right? Try several on jobs of one length.

For each interval four jobs run at once. They end at four moments
spread evenly over one interval, so that luck plays no part in when
the last question comes. Prints how often each client asked, and how
long after the job's end it knew, on average and at worst.

Run:    uv run sweep.py
or:     pip install httpx2==2.16.2 && python sweep.py
Needs:  server.py, running; its address is in URL
        (default http://127.0.0.1:8000)
Source: the formulas are those of a uniform distribution
"""

import asyncio
import os
import sys
from time import monotonic

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
LENGTH = 4.0  # of a job in seconds, on average
INTERVALS = [LENGTH / n for n in (1, 2, 3, 4, 6, 8)]
JOBS = 4  # for each interval


# --8<-- [start:one]
async def one_job(client, seconds, interval):
    """Poll one job; return (questions asked, seconds late)."""
    start = monotonic()
    answer = await client.post(f"{URL}/jobs", json={"seconds": seconds})
    answer.raise_for_status()
    url = answer.url.join(answer.headers["Location"])
    asked = 0
    while True:
        asked += 1
        # From start, and not from the last answer: no drift.
        await asyncio.sleep(start + asked * interval - monotonic())
        answer = await client.get(url)
        answer.raise_for_status()
        match answer.json()["status"]:
            case "done":
                return asked, monotonic() - start - seconds
            case other if other != "pending":
                raise ValueError(other)
# --8<-- [end:one]


# --8<-- [start:sweep]
async def sweep(client, interval):
    """Poll JOBS jobs that end at moments spread over one interval.

    Returns requests per job, and mean and worst delay in intervals.
    """
    lengths = [
        LENGTH + interval * ((n + 0.5) / JOBS - 0.5)
        for n in range(JOBS)
    ]
    runs = await asyncio.gather(
        *(one_job(client, length, interval) for length in lengths)
    )
    asked, late = zip(*runs, strict=True)
    return (
        sum(asked) / JOBS,
        sum(late) / JOBS / interval,
        max(late) / interval,
    )
# --8<-- [end:sweep]


# --8<-- [start:main]
async def main():
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(limits=limits) as client:
        rows = await asyncio.gather(
            *(sweep(client, interval) for interval in INTERVALS)
        )
    print("length/interval,requests,mean late,worst late")
    for interval, (asked, mean, worst) in zip(
        INTERVALS, rows, strict=True
    ):
        # Delays to a quarter of an interval: a busy machine adds
        # some milliseconds, which are not the point.
        print(
            f"{LENGTH / interval:g},{asked:g},"
            f"{round(mean * 4) / 4},{round(worst * 4) / 4}"
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
