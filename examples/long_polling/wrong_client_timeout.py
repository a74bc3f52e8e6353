# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""WRONG: the client times out before the server responds.

httpx2 waits 5 seconds for a response by default.

- Run: `uv run wrong_client_timeout.py`
- or: `pip install httpx2==2.16.2 && python wrong_client_timeout.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: client.py, which is right
"""

import os
import time
from contextlib import suppress

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # length of the job
WAIT = int(os.environ.get("WAIT", 25))  # seconds to be held, at most


class ProtocolError(Exception):
    """The response is not that of a job server."""


def parse_job(response):
    """Return a job that is done, or None while it is pending."""
    with suppress(KeyError, RecursionError, TypeError, ValueError):
        job = response.json() if response.is_success else {}
        return {"pending": None, "done": job}[job["status"]]
    raise ProtocolError(f"not a job: {response} {response.text[:40]!r}")


def submit_job(client):
    """Start a job; return its URL."""
    response = client.post(f"{URL}/jobs", json={"seconds": SECONDS})
    parse_job(response)
    # Location may be relative to the URL of the request.
    return response.url.join(response.headers.get("Location", ""))


def poll_until_done(client, url):
    """Poll a job, each time held for up to WAIT; return its result."""
    client.headers["Prefer"] = f"wait={WAIT}"
    while not (job := parse_job(response := client.get(url))):
        print("pending", flush=True)
        # A server may ignore Prefer. It must not be flooded.
        time.sleep(0 if "Preference-Applied" in response.headers else 1)
    return job.get("result")


try:
    with httpx2.Client() as client:
        print("done:", poll_until_done(client, submit_job(client)))
except (ImportError, httpx2.HTTPError, ProtocolError) as error:
    raise SystemExit(f"{URL}: {error}") from None
except KeyboardInterrupt:
    raise SystemExit(130) from None
