# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Ask ten times: with one client for all, and with one for each.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Persistence, RFC 9112 §9.3
"""

import asyncio
import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
TIMES = 10


# --8<-- [start:ask]
async def ask(client):
    """Ask once, and print over which connection that went."""
    answer = await client.get(f"{URL}/")
    answer.raise_for_status()
    here = answer.json()
    print(f"connection {here['connection']}, request {here['request']}")
# --8<-- [end:ask]


# --8<-- [start:both]
async def main():
    print("One client for all requests")
    async with httpx2.AsyncClient() as client:
        for _ in range(TIMES):
            await ask(client)
    print("A client for each request")
    for _ in range(TIMES):
        async with httpx2.AsyncClient() as client:
            await ask(client)
# --8<-- [end:both]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not count connections: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
