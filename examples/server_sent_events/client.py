# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Submit a job and print its events as they arrive.

It runs until the job is done.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: server-sent events, WHATWG HTML §9.2,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # length of the job
# The server sends at least a heartbeat every 15 seconds: after three
# times as long without a byte, the connection is dead.
TIMEOUT = httpx2.Timeout(5, read=45)  # seconds


class ProtocolError(Exception):
    """The response is not that of a job server."""


def submit_job(client):
    """Start a job; return the URL of its events."""
    response = client.post(f"{URL}/jobs", json={"seconds": SECONDS})
    response.raise_for_status()
    if "Location" not in response.headers:
        raise ProtocolError("the response has no Location")
    # It may be relative to the URL of the request.
    return response.url.join(response.headers["Location"])


# --8<-- [start:listen]
def wait_until_done(client, url):
    """Print a job's progress; return its result."""
    with client.sse(url) as source:
        source.response.raise_for_status()
        for event in source:
            if event.event == "done":
                return event.data
            if event.event == "progress":
                print(f"{event.data} %", flush=True)
    sys.exit("the stream ended before the job was done")
# --8<-- [end:listen]


if __name__ == "__main__":
    try:
        with httpx2.Client(timeout=TIMEOUT) as client:
            url = submit_job(client)
            print("done:", wait_until_done(client, url))
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (httpx2.SSEError, ProtocolError) as error:
        sys.exit(f"{URL} is not a job server: {error}")
    except (ImportError, httpx2.HTTPError) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
