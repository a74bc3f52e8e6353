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

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
CALLBACK = os.environ.get("CALLBACK", "http://127.0.0.1:8001/webhooks")
SECONDS = float(os.environ.get("SECONDS", 1.5))  # length of the job

job = {"seconds": SECONDS, "callback": CALLBACK}
try:
    response = httpx2.post(f"{URL}/jobs", json=job)
    response.raise_for_status()
    token = response.json()["token"]
except httpx2.HTTPError as error:
    raise SystemExit(f"{URL}: {error}") from None
except (KeyError, TypeError, ValueError):
    raise SystemExit(f"{URL} is not a job server") from None
print("submitted:", token)
