# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Long polling: ask once, and be answered when the job is done.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Prefer and wait, RFC 7240 §2 and §4.3
"""

import asyncio
import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the job's length
WAIT = int(os.environ.get("WAIT", 25))  # seconds to be held, at most


async def submit(client, seconds):
    """Start a job of so many seconds; return the URL to ask at."""
    answer = await client.post(f"{URL}/jobs", json={"seconds": seconds})
    answer.raise_for_status()
    return answer.url.join(answer.headers["Location"])


# --8<-- [start:ask]
async def ask(client, location, wait):
    """Ask until the job has ended, each time held up to so long.

    Returns the last answer and how many questions it took.
    """
    asked = 0
    while True:
        answer = await client.get(
            location, headers={"Prefer": f"wait={wait}"}
        )
        answer.raise_for_status()
        asked += 1
        job = answer.json()
        print(asked, job["status"], flush=True)
        if job["status"] != "pending":
            return job, asked
        # A server may ignore what a client prefers. Asked again at
        # once, it would be flooded.
        held = "Preference-Applied" in answer.headers
        pause = answer.headers.get("Retry-After", 0 if held else 1)
        await asyncio.sleep(float(pause))
# --8<-- [end:ask]


async def main():
    # --8<-- [start:timeout]
    # The server is to end the wait, so the client waits longer.
    timeout = httpx2.Timeout(5, read=WAIT + 10)
    async with httpx2.AsyncClient(timeout=timeout) as client:
        # --8<-- [end:timeout]
        location = await submit(client, SECONDS)
        job, asked = await ask(client, location, WAIT)
    if job["status"] != "done":
        sys.exit(f"the job {job['status']}: {job['error']}")
    print(f"the result is {job['result']}; questions: {asked}")


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
