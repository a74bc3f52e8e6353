# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Three requests over one connection, by hand: a plain socket.

- Run: `uv run by_hand.py`
- or: `python by_hand.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Where a message ends, RFC 9112 §6.3; close, RFC 9112 §9.6
"""

import os
import socket
import sys
from urllib.parse import urlsplit

URL = os.environ.get("URL", "http://127.0.0.1:8000")


# --8<-- [start:ask]
def ask(connection, host, *headers):
    """Send one GET; return the answer's status, headers and body."""
    lines = ["GET / HTTP/1.1", f"Host: {host}", *headers, "", ""]
    connection.write("\r\n".join(lines).encode())
    connection.flush()
    status = connection.readline().decode().strip()
    found = {}
    while line := connection.readline().decode().strip():
        name, value = line.split(":", 1)
        found[name.lower()] = value.strip()
    # The end of the connection no longer says where the body ends:
    # its length does.
    body = connection.read(int(found["content-length"]))
    return status, found, body.decode()
# --8<-- [end:ask]


# --8<-- [start:main]
def main():
    address = urlsplit(URL)
    with (
        socket.create_connection(
            (address.hostname, address.port or 80)
        ) as sock,
        sock.makefile("rwb") as connection,
    ):
        for headers in (), (), ("Connection: close",):
            status, found, body = ask(
                connection, address.netloc, *headers
            )
            print(status, "| connection:", found["connection"])
            print(body)
        print("after that:", connection.read() or "the end")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (KeyError, ValueError) as error:
        sys.exit(f"{URL} does not answer as it should: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
