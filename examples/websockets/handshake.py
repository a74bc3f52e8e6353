# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""The opening handshake by hand, over a plain socket.

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
# The same for everybody, for ever: RFC 6455 §1.3.
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept(key):
    """Return what a server must answer to Sec-WebSocket-Key."""
    digest = hashlib.sha1((key + GUID).encode()).digest()
    return base64.b64encode(digest).decode()
# --8<-- [end:accept]


# --8<-- [start:handshake]
def handshake(connection, host, path):
    """Ask for the upgrade; return the answer's lines, checked."""
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

    # Byte by byte: what follows the empty line is no HTTP any more.
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("the server hung up")
        answer += byte
    status, *lines = answer.decode("latin-1").split("\r\n")
    if status.split()[1:2] != ["101"]:
        raise ValueError(f"no upgrade: {status}")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("sec-websocket-accept") != accept(key):
        raise ValueError("wrong Sec-WebSocket-Accept")
    return [*request, "", status, *filter(None, lines), ""]
# --8<-- [end:handshake]


def main():
    address = urlsplit(URL)
    where = address.hostname, address.port or 80
    with socket.create_connection(where, timeout=10) as connection:
        path = f"{address.path}/jobs/socket"
        print(*handshake(connection, address.netloc, path), sep="\n")
        print("the accept value is the right one")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except ValueError as error:
        sys.exit(f"{URL} opens no WebSocket: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
