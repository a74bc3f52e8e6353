# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Open connections to one address, as a proxy does, until it fails.

- Run: `uv run ports.py`
- or: `python ports.py`
- Try: COUNT=30000, after `ulimit -n 40000` here and for the server
- Needs: Linux, and server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: ip_local_port_range,
  https://docs.kernel.org/networking/ip-sysctl.html
"""

import os
import socket
import sys
from urllib.parse import urlsplit

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 100))  # from each address
# All of 127.0.0.0/8 is this machine.
SOURCES = os.environ.get("SOURCES", "127.0.0.1 127.0.0.2").split()


# --8<-- [start:open]
def open_from(source, target):
    """Open up to COUNT connections; return them, and why it ended."""
    opened = []
    while len(opened) < COUNT:
        sock = socket.socket()
        # Have the kernel choose the port when it knows the target: a
        # port may be used again towards another target.
        sock.setsockopt(
            socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1
        )
        sock.bind((source, 0))
        try:
            sock.connect(target)
        except OSError as error:
            sock.close()
            return opened, error.strerror
        opened.append(sock)
    return opened, "COUNT is reached"
# --8<-- [end:open]


def main():
    address = urlsplit(URL)
    if not address.hostname:
        sys.exit(f"no host name in URL: {URL}")
    target = address.hostname, address.port or 80
    kept = []  # a closed one returns its port
    for source in SOURCES:
        opened, end = open_from(source, target)
        kept += opened
        print(f"from {source}: {len(opened)} connections; then: {end}")
    for sock in kept:
        sock.close()
    if not kept:
        sys.exit(f"cannot reach {URL}: {end}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
