# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Server-sent events across as many connections as it takes.

Comes back when the connection is lost, says what it has seen, waits
at random so as not to come with the crowd, and gives up in the end.

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
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the job's length
DEADLINE = float(os.environ.get("DEADLINE", 60))  # seconds, for all

# Three heartbeats of the server may be late, a fourth may not.
TIMEOUT = httpx2.Timeout(5, read=45)  # seconds
TRY_AGAIN = {425, 429, 500, 502, 503, 504}  # others are final


async def submit(client, seconds):
    """Start a job of so many seconds; return the URL to ask at."""
    answer = await client.post(f"{URL}/jobs", json={"seconds": seconds})
    answer.raise_for_status()
    return answer.url.join(answer.headers["Location"])


# --8<-- [start:wait]
def wait(failures, retry):
    """Return how many seconds to wait before coming back.

    At least `retry`, which is the server's word, and at random up to
    1, 2, 4 … 30 seconds more: doubled with each failure in a row.
    """
    return retry + random.uniform(0, min(30, 2**failures))
# --8<-- [end:wait]


def seconds(retry_after):
    """Return a Retry-After, seconds or a date, as seconds from now."""
    try:
        return max(0, float(retry_after))
    except ValueError:
        date = parsedate_to_datetime(retry_after)
        return max(0, (date - datetime.now(UTC)).total_seconds())


# --8<-- [start:events]
async def events(client, url):
    """Yield each event once, over as many connections as it takes."""
    seen, retry, failures = {}, 1.0, 0
    while True:
        pause = retry
        try:
            async with client.sse(url, headers=seen) as source:
                answer = source.response
                if answer.status_code == 204:
                    return  # all has been told
                if answer.status_code not in TRY_AGAIN:
                    answer.raise_for_status()
                    async for event in source:
                        if event.retry is not None:
                            retry = pause = event.retry / 1000
                        if event.id:
                            seen = {"Last-Event-ID": event.id}
                        if event.data:
                            failures = 0  # this connection works
                            yield event
                    problem = "the stream ended"
                else:
                    problem = f"answered {answer.status_code}"
                    told = answer.headers.get("Retry-After", 1)
                    pause = seconds(told)
        except httpx2.SSEError:
            raise  # not a stream of events: no use in coming back
        except httpx2.TransportError as error:
            problem = type(error).__name__
        print(f"{problem}: coming back", flush=True)
        await asyncio.sleep(wait(failures, pause))
        failures += 1
# --8<-- [end:events]


# --8<-- [start:main]
async def main():
    async with (
        asyncio.timeout(DEADLINE),
        httpx2.AsyncClient(timeout=TIMEOUT) as client,
    ):
        job = await submit(client, SECONDS)
        async with aclosing(events(client, f"{job}/events")) as told:
            async for event in told:
                match event.event:
                    case "progress":
                        print(event.json()["percent"], "%", flush=True)
                    case "missed":
                        print(event.json()["events"], "events missed")
                    case "done":
                        print("the result is", event.json()["result"])
                        return
                    case "failed":
                        reason = event.json()["error"]
                        sys.exit(f"the job failed: {reason}")
    sys.exit("the server has nothing more to tell")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except TimeoutError:
        sys.exit(f"not done within {DEADLINE:g} seconds: gave up")
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except (httpx2.SSEError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not answer as a job server: {error!r}")
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
