# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""A client that hands in a job, keeps the token, and asks later.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 1.5))  # the job's length


# --8<-- [start:submit]
async def submit(client, seconds):
    """Start a job of so many seconds; return the answer."""
    answer = await client.post(f"{URL}/jobs", json={"seconds": seconds})
    answer.raise_for_status()
    print(answer.status_code, answer.reason_phrase, flush=True)
    return answer
# --8<-- [end:submit]


# --8<-- [start:ask]
async def ask(client, answer):
    """Ask until the job has ended, each time when the server said."""
    # Location may be relative: it is resolved against the request.
    location = answer.url.join(answer.headers["Location"])
    while True:
        await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        answer = await client.get(location)
        answer.raise_for_status()
        job = answer.json()
        print(job["status"], flush=True)
        if job["status"] != "pending":
            return job
# --8<-- [end:ask]


async def main():
    async with httpx2.AsyncClient() as client:
        submitted = await submit(client, SECONDS)
        job = await ask(client, submitted)
    if job["status"] != "done":
        sys.exit(f"the job {job['status']}: {job['error']}")
    print("the result is", job["result"])


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
