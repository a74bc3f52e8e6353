# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Hold many requests at once; count how they end.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Try: COUNT=5000, after `ulimit -n 6000` here and for the server
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import sys
from collections import Counter

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 500))  # clients


# --8<-- [start:client]
async def poll(client):
    """Send a request that is held; return how it ended."""
    try:
        response = await client.get(f"{URL}/poll")
    except httpx2.TransportError as error:
        return f"no response ({type(error).__name__})"
    retry = response.headers.get("Retry-After")
    return f"{response.status_code}{', Retry-After' if retry else ''}"


async def main():
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(limits=limits, timeout=60) as client:
        (await client.get(f"{URL}/held")).raise_for_status()
        polls = [poll(client) for _ in range(COUNT)]
        outcomes = Counter(await asyncio.gather(*polls))
    for outcome, number in outcomes.most_common():
        print(f"{number} clients: {outcome}")
# --8<-- [end:client]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ImportError, httpx2.HTTPError) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
