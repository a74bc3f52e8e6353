# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Hold WebSocket connections open; count them for each instance.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
- Needs: server.py, running, or a load balancer in front of several;
  the address is in URL (default http://127.0.0.1:8000)
- Source: https://websockets.readthedocs.io/en/stable/
"""

import asyncio
import os
import sys
from collections import Counter
from contextlib import AsyncExitStack

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 9))  # connections
SECONDS = float(os.environ.get("SECONDS", 60))  # to hold them


async def main():
    url = f"{URL}/socket".replace("http", "ws", 1)
    async with AsyncExitStack() as stack:
        instances = Counter()
        for _ in range(COUNT):
            ws = await stack.enter_async_context(connect(url))
            instances[await ws.recv()] += 1
        for name, number in sorted(instances.items()):
            print(f"instance {name}: {number} connections", flush=True)
        await asyncio.sleep(SECONDS)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ImportError, OSError, WebSocketException) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
