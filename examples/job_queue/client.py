# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Submit a job to a queue, and follow its position.

It runs until the job is done, or until you stop it with Ctrl-C.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: 503 and Retry-After, RFC 9110 §15.6.4 and §10.2.3
"""

import os
import time
from contextlib import suppress

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 1.5))  # length of the job


class ProtocolError(Exception):
    """The response is not that of a job server with a queue."""


# --8<-- [start:parse_job]
def parse_job(response):
    """Return the job that a response contains."""
    with suppress(KeyError, RecursionError, TypeError, ValueError):
        job = response.json() if response.is_success else {}
        return {"pending": job, "done": job}[job["status"]]
    raise ProtocolError(f"not a job: {response} {response.text[:40]!r}")
# --8<-- [end:parse_job]


# --8<-- [start:send]
def send(client, method, url, **options):
    """Send a request until it is accepted; return (response, job)."""
    while True:
        response = client.request(method, url, **options)
        if response.status_code != 503:
            return response, parse_job(response)
        print("the queue is full", flush=True)
        pause(response)


def pause(response):
    """Wait as long as Retry-After specifies: 1 to 60 seconds."""
    value = response.headers.get("Retry-After", "")
    seconds = float(value) if value.isdecimal() else 1
    time.sleep(min(max(seconds, 1), 60))
# --8<-- [end:send]


try:
    with httpx2.Client() as client:
        job = {"seconds": SECONDS}
        response, job = send(client, "POST", f"{URL}/jobs", json=job)
        # Location may be relative to the URL of the request.
        url = response.url.join(response.headers.get("Location", ""))
        while job["status"] == "pending":
            print(f"position {job.get('position', '?')}", flush=True)
            pause(response)
            response, job = send(client, "GET", url)
    print("done:", job.get("result"))
except (ImportError, httpx2.HTTPError, ProtocolError) as error:
    raise SystemExit(f"{URL}: {error}") from None
except KeyboardInterrupt:
    raise SystemExit(130) from None
