# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Follow a feed by long polling: every message, once, in order.

Ends when nothing was said for as long as a question is held.

- Run: `uv run feed_client.py`
- or: `pip install httpx2==2.16.2 && python feed_client.py`
- Needs: feed_server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Prefer and wait, RFC 7240 §2 and §4.3
"""

import asyncio
import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
WAIT = int(os.environ.get("WAIT", 25))  # seconds to be held, at most


# --8<-- [start:follow]
async def follow(client, wait):
    """Print each message; return when none came for so long."""
    after = 0  # the last message we have; 0 for none
    while True:
        answer = await client.get(
            f"{URL}/messages",
            params={"after": after},
            headers={"Prefer": f"wait={wait}"},
        )
        if answer.status_code == 410:  # the server began anew
            print("the feed has started anew", flush=True)
            after = 0
            continue
        answer.raise_for_status()
        feed = answer.json()
        if feed["missed"]:
            print(f"missed {feed['missed']}", flush=True)
        for message in feed["messages"]:
            print(f"{message['id']}: {message['text']}", flush=True)
        if feed["last"] == after:
            return
        after = feed["last"]
# --8<-- [end:follow]


async def main():
    timeout = httpx2.Timeout(5, read=WAIT + 10)
    async with httpx2.AsyncClient(timeout=timeout) as client:
        await follow(client, WAIT)
    print("nothing new")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not answer as a feed: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
