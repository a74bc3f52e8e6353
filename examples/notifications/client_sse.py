# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Receive notifications as server-sent events.

- Run: `uv run client_sse.py`
- or: `pip install httpx2==2.16.2 && python client_sse.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Last-Event-ID, WHATWG HTML §9.2.4,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os
import random
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
WHO = os.environ.get("WHO", "ann")
TOPICS = os.environ.get("TOPICS", "deploys server").split()
COUNT = int(os.environ.get("COUNT", 0))  # notifications; 0: no end
TRIES = int(os.environ.get("TRIES", 10))  # in a row, then give up
TIMEOUT = httpx2.Timeout(5, read=45)  # s; the server beats every 15


# --8<-- [start:follow]
async def follow(client, handle):
    """Call handle(note) for each notification, until it is True."""
    seen, failures, error = 0, 0, None
    while failures < TRIES:
        try:
            async with client.sse(
                f"{URL}/notifications/events",
                params={"user": WHO, "topic": TOPICS},
                headers={"Last-Event-ID": str(seen)},
            ) as source:
                source.response.raise_for_status()
                async for event in source:
                    if not event.data or int(event.id) <= seen:
                        continue
                    seen, failures = int(event.id), 0
                    if handle(event.json()):
                        return
        except httpx2.TransportError as caught:
            error = caught
        await asyncio.sleep(random.uniform(0, min(60, 2**failures)))
        failures += 1
    raise error or TimeoutError("nothing came")
# --8<-- [end:follow]


async def main():
    taken = []

    def handle(note):
        taken.append(note["id"])
        print(f"{note['id']} {note['to']}: {note['text']}", flush=True)
        return len(taken) == COUNT

    async with httpx2.AsyncClient(timeout=TIMEOUT) as client:
        await follow(client, handle)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except (httpx2.SSEError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} sends no notifications: {error!r}")
    except (httpx2.HTTPError, TimeoutError) as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
