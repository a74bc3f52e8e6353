# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Wrong: sends again whatever got no answer, orders as well.

- Run: `uv run wrong_retry.py`
- or: `pip install httpx2==2.16.2 && python wrong_retry.py`
- Needs: server_impatient.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: What may be sent again, RFC 9112 §9.3.1 and RFC 9110 §9.2.2
"""

import asyncio
import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")


# --8<-- [start:request]
async def request(client, method):
    """Send a request, and again if there is no answer."""
    try:
        return await client.request(method, URL)
    except httpx2.TransportError as error:
        print(f"{method}: {error!r}, once more")
    async with httpx2.AsyncClient() as fresh:
        return await fresh.request(method, URL)
# --8<-- [end:request]


async def main():
    async with httpx2.AsyncClient() as client:
        before = (await request(client, "GET")).raise_for_status()
        for _ in range(2):
            placed = await request(client, "POST")
            print("order", placed.raise_for_status().json()["order"])
        after = (await request(client, "GET")).raise_for_status()
    count = after.json()["orders"] - before.json()["orders"]
    print(f"2 orders wanted, {count} placed")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
