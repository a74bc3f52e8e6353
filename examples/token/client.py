# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Submit a job, keep its URL, and poll it until it is done.

It runs until the job is done, or until you stop it with Ctrl-C.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: 202 Accepted, RFC 9110 §15.3.3
"""

import os
import time
from contextlib import suppress

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 1.5))  # length of the job


class ProtocolError(Exception):
    """The response is not that of a job server."""


# --8<-- [start:parse_job]
def parse_job(response):
    """Return a job that is done, or None while it is pending."""
    with suppress(KeyError, RecursionError, TypeError, ValueError):
        job = response.json() if response.is_success else {}
        return {"pending": None, "done": job}[job["status"]]
    raise ProtocolError(f"not a job: {response} {response.text[:40]!r}")
# --8<-- [end:parse_job]


# --8<-- [start:submit_job]
def submit_job(client):
    """Start a job; return its URL."""
    response = client.post(f"{URL}/jobs", json={"seconds": SECONDS})
    parse_job(response)
    # Location may be relative to the URL of the request.
    return response.url.join(response.headers.get("Location", ""))
# --8<-- [end:submit_job]


# --8<-- [start:poll_until_done]
def poll_until_done(client, url):
    """Poll a job each second; return its result."""
    while True:
        time.sleep(1)
        if job := parse_job(client.get(url)):
            return job.get("result")
        print("pending", flush=True)
# --8<-- [end:poll_until_done]


try:
    with httpx2.Client() as client:
        print("done:", poll_until_done(client, submit_job(client)))
except (ImportError, httpx2.HTTPError, ProtocolError) as error:
    raise SystemExit(f"{URL}: {error}") from None
except KeyboardInterrupt:
    raise SystemExit(130) from None
