# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Submit a job and print its events, reconnecting where it must.

When a connection is lost, the client reconnects after a random delay,
resumes after the last event that it has, and gives up at a deadline.

- Run: `uv run client_hardened.py`
- or: `pip install httpx2==2.16.2 && python client_hardened.py`
- Needs: server_hardened.py or server.py, running; its address is in
  URL (default http://127.0.0.1:8000)
- Source: Last-Event-ID, WHATWG HTML §9.2.4,
  https://html.spec.whatwg.org/multipage/server-sent-events.html;
  Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import random
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # length of the job
DEADLINE = float(os.environ.get("DEADLINE", 60))  # seconds, for all
# The server sends at least a heartbeat every 15 seconds: after three
# times as long without a byte, the connection is dead.
TIMEOUT = httpx2.Timeout(5, read=45)  # seconds
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}  # others: final
MAX_RETRY_AFTER = 600  # seconds


class ProtocolError(Exception):
    """The response is not that of a job server."""


def open_client(**options):
    """Return an HTTP client that follows redirects.

    It uses the proxies that the environment names; one that it
    cannot use ends the program.
    """
    try:
        return httpx2.AsyncClient(follow_redirects=True, **options)
    except (ImportError, ValueError) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")


async def submit_job(client):
    """Start a job; return the URL of its events."""
    response = await client.post(
        f"{URL}/jobs", json={"seconds": SECONDS}
    )
    response.raise_for_status()
    if "Location" not in response.headers:
        raise ProtocolError("the response has no Location")
    # It may be relative to the URL of the request.
    return response.url.join(response.headers["Location"])


# --8<-- [start:backoff_delay]
def backoff_delay(failures, at_least):
    """Return how many seconds to wait before reconnecting.

    As long as the server specifies, and a random time of up to 1, 2,
    4 … 30 seconds more: doubled with each failure in a row.
    """
    at_least = min(max(0, at_least), MAX_RETRY_AFTER)
    return at_least + random.uniform(0, min(30, 2 ** min(failures, 5)))
# --8<-- [end:backoff_delay]


def retry_after(response):
    """Return the seconds that Retry-After specifies, or None.

    It is a number or one of three forms of a date (RFC 9110 §10.2.3
    and §5.6.7), all in GMT. Anything else is ignored.
    """
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (OverflowError, ValueError):
        return None
    # The form of asctime() names no time zone: it is GMT as well.
    delay = date.replace(tzinfo=UTC) - datetime.now(UTC)
    return delay.total_seconds()


# --8<-- [start:stream_events]
async def stream_events(client, url):
    """Yield each event once, over as many connections as it takes."""
    last, reconnect_after, failures = {}, 1.0, 0
    while True:
        at_least, stream = reconnect_after, None
        try:
            async with client.sse(url, headers=last) as source:
                response = source.response
                if response.status_code == 204:
                    return  # there are no more events
                if response.status_code not in RETRY_STATUSES:
                    response.raise_for_status()
                    stream = response
                    stream.encoding = "utf-8-sig"  # skips a BOM
                    async for event in source:
                        if event.retry is not None:
                            reconnect_after = event.retry / 1000
                            at_least = reconnect_after
                        if event.id:
                            last = {"Last-Event-ID": event.id}
                        if event.data:
                            yield event
                    problem = "the stream ended"
                else:
                    problem = f"status {response.status_code}"
                    at_least = retry_after(response) or 1
        except httpx2.SSEError:
            raise  # not an event stream: reconnecting does not help
        except httpx2.TransportError as error:
            problem = type(error).__name__
        # Something arrived, if only a heartbeat: httpx2 skips those.
        if stream and stream.num_bytes_downloaded:
            failures = 0
        print(f"{problem}: reconnecting", flush=True)
        await asyncio.sleep(backoff_delay(failures, at_least))
        failures += 1
# --8<-- [end:stream_events]


def parse_data(event):
    """Return the data of an event, which is JSON."""
    try:
        return event.json()
    except (RecursionError, ValueError):
        raise ProtocolError(f"it sent {event.data[:40]!r}") from None


# --8<-- [start:wait_until_done]
async def wait_until_done(client, url):
    """Print a job's progress; return its result."""
    async with aclosing(stream_events(client, url)) as events:
        async for event in events:
            if event.event == "progress":
                print(f"{parse_data(event)} %", flush=True)
            elif event.event == "missed":
                print(f"missed {parse_data(event)} events", flush=True)
            elif event.event == "done":
                return parse_data(event)
            elif event.event == "failed":
                sys.exit(f"the job failed: {parse_data(event)}")
    sys.exit("the server has no more events")
# --8<-- [end:wait_until_done]


async def main():
    async with (
        asyncio.timeout(DEADLINE),
        open_client(timeout=TIMEOUT) as client,
    ):
        url = await submit_job(client)
        print("done:", await wait_until_done(client, url))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except TimeoutError:
        sys.exit(f"the job was not done within {DEADLINE:g} s")
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (httpx2.SSEError, ProtocolError) as error:
        sys.exit(f"{URL} is not a job server: {error}")
    except httpx2.HTTPError as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
