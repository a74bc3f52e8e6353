# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Short polling: ask again and again, and wait in between.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: 202 Accepted, RFC 9110 §15.3.3
"""

import asyncio
import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the job's length
INTERVAL = float(os.environ.get("INTERVAL", 1))  # between questions


# --8<-- [start:submit]
async def submit(client, seconds):
    """Start a job of so many seconds; return the URL to ask at."""
    answer = await client.post(f"{URL}/jobs", json={"seconds": seconds})
    answer.raise_for_status()
    return answer.url.join(answer.headers["Location"])
# --8<-- [end:submit]


# --8<-- [start:poll]
async def poll(client, location, interval):
    """Ask every so many seconds until the job is done.

    Returns the last answer and how many times it took.
    """
    asked = 0
    while True:
        await asyncio.sleep(interval)
        answer = await client.get(location)
        answer.raise_for_status()
        asked += 1
        job = answer.json()
        print(asked, job["status"], flush=True)
        if job["status"] != "pending":
            return job, asked
# --8<-- [end:poll]


async def main():
    # One client for all requests, so that they share a connection.
    async with httpx2.AsyncClient() as client:
        location = await submit(client, SECONDS)
        job, asked = await poll(client, location, INTERVAL)
    if job["status"] != "done":
        sys.exit(f"the job {job['status']}: {job['error']}")
    print(f"the result is {job['result']}; it took {asked} questions")


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
