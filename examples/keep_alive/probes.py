# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Hold an idle connection, and let TCP keepalive watch it.

- Run: `uv run probes.py`
- or: `python probes.py`
- Needs: Linux, and server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: tcp(7), https://man7.org/linux/man-pages/man7/tcp.7.html
"""

import os
import select
import socket
import sys
from urllib.parse import urlsplit

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 10))  # to hold it
KEEPALIVE = os.environ.get("KEEPALIVE", "yes") == "yes"


# --8<-- [start:probe]
def enable_keepalive(sock, idle, interval, count):
    """Have the kernel probe whether the peer is still there.

    It sends the first probe after `idle` seconds without traffic,
    then one every `interval` seconds, and gives up when `count` in a
    row were not acknowledged.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, idle),
        (socket.TCP_KEEPINTVL, interval),
        (socket.TCP_KEEPCNT, count),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
# --8<-- [end:probe]


def describe(sock):
    enabled = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, interval, count = (
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (
            socket.TCP_KEEPIDLE,
            socket.TCP_KEEPINTVL,
            socket.TCP_KEEPCNT,
        )
    )
    return (
        f"{'on' if enabled else 'off'}: after {idle} s idle, "
        f"every {interval} s, {count} probes"
    )


# --8<-- [start:main]
def main():
    address = urlsplit(URL)
    server = address.hostname, address.port or 80
    with socket.create_connection(server) as sock:
        print("default:", describe(sock), flush=True)
        if KEEPALIVE:
            enable_keepalive(sock, idle=1, interval=1, count=2)
            print("enabled:", describe(sock), flush=True)
        # Neither side sends data, so only an end can be readable.
        if select.select([sock], [], [], SECONDS)[0]:
            try:
                sock.recv(1)
            except TimeoutError:
                sys.exit("the peer is gone: no probe was acknowledged")
            print("the server closed the connection")
        else:
            print(f"nothing received in {SECONDS:g} s")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
