# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""WRONG: it follows a feed without a cursor.

- Run: `uv run wrong_feed_client.py`
- or: `pip install httpx2==2.16.2 && python wrong_feed_client.py`
- Needs: wrong_feed_server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: feed_client.py, which is right
"""

import os
import sys
from contextlib import suppress

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
WAIT = int(os.environ.get("WAIT", 25))  # seconds to be held, at most


class ProtocolError(Exception):
    """The response is not that of a feed."""


class CursorExpired(Exception):
    """The server does not know the cursor: it has restarted."""


def parse_feed(response):
    """Return (messages, how many were missed, the next cursor)."""
    if response.status_code == 410:
        raise CursorExpired("the feed does not know its own cursor")
    response.raise_for_status()
    with suppress(KeyError, RecursionError, TypeError, ValueError):
        feed = response.json()
        messages = [f"{m['id']}: {m['text']}" for m in feed["messages"]]
        return messages, feed["missed"], feed["last"]
    raise ProtocolError(f"it sent {response.text[:40]!r}")


def follow(client):
    """Print each message; return when none came during a hold."""
    after = 0  # the last message that was received; 0 for none
    while True:
        response = client.get(
            f"{URL}/messages",
            headers={"Prefer": f"wait={WAIT}"},
        )
        try:
            messages, missed, last = parse_feed(response)
        except CursorExpired:
            if not after:
                raise
            print("the feed has restarted", flush=True)
            after = 0
            continue
        if missed:
            print(f"missed {missed}", flush=True)
        for message in messages:
            print(message, flush=True)
        if not messages:
            return
        after = last


if __name__ == "__main__":
    try:
        # The server ends the hold, so the client waits for longer.
        with httpx2.Client(timeout=WAIT + 10) as client:
            follow(client)
        print("no new messages")
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (ImportError, httpx2.HTTPError) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except (CursorExpired, ProtocolError) as error:
        sys.exit(f"{URL} is not a feed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
