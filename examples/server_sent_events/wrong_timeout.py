# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""WRONG: takes silence for a failure.

This is client.py with httpx2's own timeout of five seconds.

- Run: `uv run wrong_timeout.py`
- or: `pip install httpx2==2.16.2 && python wrong_timeout.py`
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


if __name__ == "__main__":
    try:
        with httpx2.Client() as client:
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
