# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Three requests over one connection, with a plain socket.

- Run: `uv run by_hand.py`
- or: `python by_hand.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Message body length, RFC 9112 §6.3; close, RFC 9112 §9.6
"""

import os
import socket
import sys
from urllib.parse import urlsplit

URL = os.environ.get("URL", "http://127.0.0.1:8000")
TIMEOUT = 10  # seconds


class ProtocolError(Exception):
    """The bytes received are not the response that is expected."""


# --8<-- [start:request]
def send_request(stream, host, *headers):
    """Send a GET; return the response's status, headers and body."""
    lines = ["GET / HTTP/1.1", f"Host: {host}", *headers, "", ""]
    stream.write("\r\n".join(lines).encode())
    stream.flush()
    status = stream.readline().decode("latin-1").strip()
    fields = {}
    while line := stream.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    # The connection stays open, so its end does not mark the end of
    # the body; the length does.
    length = fields.get("content-length", "")
    if not length.isdecimal():
        raise ProtocolError(f"no Content-Length after {status!r}")
    return status, fields, stream.read(int(length)).decode()
# --8<-- [end:request]


# --8<-- [start:main]
def main():
    address = urlsplit(URL)
    server = address.hostname, address.port or 80
    with (
        socket.create_connection(server, TIMEOUT) as sock,
        sock.makefile("rwb") as stream,
    ):
        for headers in (), (), ("Connection: close",):
            status, fields, body = send_request(
                stream, address.netloc, *headers
            )
            print(status, "| connection:", fields.get("connection"))
            print(body)
        print("then:", stream.read() or "end of stream")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except (ProtocolError, UnicodeDecodeError) as error:
        sys.exit(f"{URL} is not the server of this page: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
