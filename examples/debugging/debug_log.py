# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Log every frame of a WebSocket connection, by the library's logger.

- Run: `uv run debug_log.py`
- or: `pip install websockets==17.4 && python debug_log.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: https://websockets.readthedocs.io/en/stable/topics/logging.html
"""

import asyncio
import logging
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

URL = os.environ.get("URL", "http://127.0.0.1:8000")
TIMEOUT = 10  # seconds, for the whole conversation

# --8<-- [start:log]
# In your program, add %(asctime)s and omit `stream`.
logging.basicConfig(format="%(message)s", stream=sys.stdout)
logging.getLogger("websockets").setLevel(logging.DEBUG)
# --8<-- [end:log]


# --8<-- [start:main]
async def main():
    url = f"{URL.replace('http', 'ws', 1)}/socket"
    async with asyncio.timeout(TIMEOUT), connect(url) as ws:
        await ws.recv()
        await ws.send("bye")
        async for _ in ws:
            pass
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (OSError, WebSocketException) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
