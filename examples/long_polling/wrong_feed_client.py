# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""WRONG: follows a feed without saying where it is.

- Run: `uv run wrong_feed_client.py`
- or: `pip install httpx2==2.16.2 && python wrong_feed_client.py`
- Needs: wrong_feed_server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: feed_client.py, which is right
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
    while True:
        answer = await client.get(
            f"{URL}/messages", headers={"Prefer": f"wait={wait}"}
        )
        answer.raise_for_status()
        feed = answer.json()
        for message in feed["messages"]:
            print(f"{message['id']}: {message['text']}", flush=True)
        if not feed["messages"]:
            return
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
