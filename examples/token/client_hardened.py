# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""A client that starts one job, even when an answer is lost.

- Run: `uv run client_hardened.py`
- or: `pip install httpx2==2.16.2 && python client_hardened.py`
- Needs: server_hardened.py, running; its address is in URL
  (default http://127.0.0.1:8000), your key for it in KEY
- Source: safe repetition, RFC 9110 §9.2.2; Bearer, RFC 6750 §2.1
"""

import asyncio
import os
import sys
import uuid

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
KEY = os.environ.get("KEY", "alice-key")
SECONDS = float(os.environ.get("SECONDS", 1.5))  # the job's length


# --8<-- [start:submit]
async def submit(client, seconds):
    """Start a job of so many seconds; return the answer.

    If the answer is lost on the way, the job may have started all
    the same. The key makes it safe to send the request again: a
    server that knows the key answers with the job it has.
    """
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    for attempts_left in 2, 1, 0:
        try:
            answer = await client.post(
                f"{URL}/jobs",
                json={"seconds": seconds},
                headers=headers,
            )
            break
        except httpx2.TransportError as error:
            if not attempts_left:
                raise
            problem = type(error).__name__
            print(f"no answer ({problem}): sending again", flush=True)
            await asyncio.sleep(0.5)
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
    authorization = {"Authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(headers=authorization) as client:
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
