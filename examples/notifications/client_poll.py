# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Receive notifications by long polling.

- Run: `uv run client_poll.py`
- or: `pip install httpx2==2.16.2 && python client_poll.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Prefer and wait, RFC 7240 §2 and §4.3
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
TIMEOUT = httpx2.Timeout(5, read=35)  # s; the server holds for 25


# --8<-- [start:follow]
async def follow(client, handle):
    """Call handle(note) for each notification, until it is True."""
    after, failures = 0, 0
    while True:
        try:
            answer = await client.get(
                f"{URL}/notifications",
                params={"user": WHO, "topic": TOPICS, "after": after},
                headers={"Prefer": "wait=25"},
            )
        except httpx2.TransportError:
            failures += 1
            if failures == TRIES:
                raise
            await asyncio.sleep(random.uniform(0, min(60, 2**failures)))
            continue
        answer.raise_for_status()
        for note in answer.json()["notifications"]:
            if handle(note):
                return
        after, failures = answer.json()["after"], 0
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
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} sends no notifications: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
