# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Submit a job whose result is sent to a receiver.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000), that of the receiver in CALLBACK
- Source: 202 Accepted, RFC 9110 §15.3.3
"""

import os
from contextlib import suppress

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
CALLBACK = os.environ.get("CALLBACK", "http://127.0.0.1:8001/webhooks")
SECONDS = float(os.environ.get("SECONDS", 1.5))  # length of the job


class ProtocolError(Exception):
    """The response is not that of a job server."""


def parse_token(response):
    """Return the token of a job that was accepted."""
    with suppress(KeyError, RecursionError, TypeError, ValueError):
        job = response.json() if response.is_success else {}
        return {"pending": job}[job["status"]]["token"]
    raise ProtocolError(f"not a job: {response} {response.text[:40]!r}")


job = {"seconds": SECONDS, "callback": CALLBACK}
try:
    token = parse_token(httpx2.post(f"{URL}/jobs", json=job))
except (ImportError, httpx2.HTTPError, ProtocolError) as error:
    raise SystemExit(f"{URL}: {error}") from None
print("submitted:", token)
