# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""A client that starts one job, even when a response is lost.

- Run: `uv run client_hardened.py`
- or: `pip install httpx2==2.16.2 && python client_hardened.py`
- Needs: server_hardened.py, running; its address is in URL
  (default http://127.0.0.1:8000), your API key in KEY
- Source: safe repetition, RFC 9110 §9.2.2; Bearer, RFC 6750 §2.1;
  Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import sys
import uuid
from contextlib import suppress

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
KEY = os.environ.get("KEY", "alice-key")
SECONDS = float(os.environ.get("SECONDS", 1.5))  # length of the job
DEADLINE = float(os.environ.get("DEADLINE", 120))  # seconds, for all


class ProtocolError(Exception):
    """The response is not that of a job server."""


# --8<-- [start:parse_job]
def parse_job(response):
    """Return a job: (status, its result or error once it has ended)."""
    response.raise_for_status()
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


# --8<-- [start:submit_job]
async def submit_job(client):
    """Start a job; return the response.

    If the response is lost, the job may have started all the same.
    The key makes it safe to send the request again: a server that
    knows the key returns the job that it has.
    """
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    for attempts_left in 2, 1, 0:
        try:
            response = await client.post(
                f"{URL}/jobs",
                json={"seconds": SECONDS},
                headers=headers,
            )
            break
        except httpx2.TransportError as error:
            if not attempts_left:
                raise
            problem = type(error).__name__
            print(f"no response ({problem}): retrying", flush=True)
            await asyncio.sleep(0.5)
    parse_job(response)
    return response
# --8<-- [end:submit_job]


# --8<-- [start:poll_until_done]
async def poll_until_done(client, response):
    """Poll until the job has ended, when the server suggests."""
    # Location may be relative to the URL of the request.
    url = response.url.join(response.headers.get("Location", ""))
    while True:
        pause = float(response.headers.get("Retry-After", 1))
        await asyncio.sleep(pause)
        response = await client.get(url)
        status, value = parse_job(response)
        if status != "pending":
            return status, value
        print("pending", flush=True)
# --8<-- [end:poll_until_done]


async def main():
    authorization = {"Authorization": f"Bearer {KEY}"}
    async with (
        asyncio.timeout(DEADLINE),
        httpx2.AsyncClient(headers=authorization) as client,
    ):
        submitted = await submit_job(client)
        status, value = await poll_until_done(client, submitted)
    if status == "failed":
        sys.exit(f"the job failed: {value}")
    print("done:", value)


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
