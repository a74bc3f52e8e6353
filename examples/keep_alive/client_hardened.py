# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Two orders, placed once each, whenever the server hangs up.

- Run: `uv run client_hardened.py`
- or: `pip install httpx2==2.16.2 && python client_hardened.py`
- Needs: server_impatient.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: What may be sent again, RFC 9112 §9.3.1 and RFC 9110 §9.2.2
"""

import asyncio
import os
import sys
import uuid

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")

# --8<-- [start:limits]
# Idle connections are dropped here before they are dropped there:
# this must be shorter than any idle timeout on the way.
LIMITS = httpx2.Limits(
    max_connections=100,  # left out, these two mean: no limit
    max_keepalive_connections=20,
    keepalive_expiry=4,  # seconds
)
# --8<-- [end:limits]


# --8<-- [start:request]
IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}


async def request(client, method, key=None):
    """Send a request; once more, if that can do no harm.

    With a key the server recognises a request that it had before.
    """
    headers = {"Idempotency-Key": key} if key else {}
    try:
        return await client.request(method, URL, headers=headers)
    except httpx2.TransportError as error:
        if method not in IDEMPOTENT and not key:
            raise  # it may have been done all the same
        print(f"{method}: {error!r}, once more")
    # A new client has no connection that could be as old.
    async with httpx2.AsyncClient() as fresh:
        return await fresh.request(method, URL, headers=headers)
# --8<-- [end:request]


# --8<-- [start:main]
async def main():
    async with httpx2.AsyncClient(limits=LIMITS) as client:
        before = (await request(client, "GET")).raise_for_status()
        for _ in range(2):
            placed = await request(client, "POST", str(uuid.uuid4()))
            print("order", placed.raise_for_status().json()["order"])
        after = (await request(client, "GET")).raise_for_status()
    count = after.json()["orders"] - before.json()["orders"]
    print(f"2 orders wanted, {count} placed")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not take orders: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
