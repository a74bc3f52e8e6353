# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Open a WebSocket connection with a plain socket.

- Run: `uv run handshake.py`
- or: `python handshake.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: RFC 6455 §4.1 (the client) and §4.2.2 (the accept value)
"""

import base64
import hashlib
import os
import secrets
import socket
import sys
from urllib.parse import urlsplit

URL = os.environ.get("URL", "http://127.0.0.1:8000")

# --8<-- [start:accept]
# The constant of RFC 6455 §1.3.
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_value(key):
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    digest = hashlib.sha1((key + GUID).encode()).digest()
    return base64.b64encode(digest).decode()
# --8<-- [end:accept]


class ProtocolError(Exception):
    """The response does not open a WebSocket connection."""


# --8<-- [start:handshake]
def handshake(connection, host, path):
    """Request the upgrade; return both heads as lines, checked."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    request = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    connection.sendall("\r\n".join([*request, "", ""]).encode())

    # Byte by byte, since frames follow the empty line.
    response = b""
    while not response.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("the server closed the connection")
        response += byte
    status, *lines = response.decode("latin-1").split("\r\n")
    if status.split()[1:2] != ["101"]:
        raise ProtocolError(f"no upgrade: {status}")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("sec-websocket-accept") != accept_value(key):
        raise ProtocolError("wrong Sec-WebSocket-Accept")
    return [*request, "", status, *filter(None, lines), ""]
# --8<-- [end:handshake]


def main():
    address = urlsplit(URL)
    server = address.hostname, address.port or 80
    with socket.create_connection(server, timeout=10) as connection:
        path = f"{address.path}/jobs/socket"
        print(*handshake(connection, address.netloc, path), sep="\n")
        print("Sec-WebSocket-Accept is correct")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a WebSocket server: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
