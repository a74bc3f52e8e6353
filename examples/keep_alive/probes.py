# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Hold an idle connection, and let TCP itself look after it.

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
PROBES = os.environ.get("PROBES", "yes") == "yes"


# --8<-- [start:probe]
def probe(sock, idle, interval, count):
    """Have the kernel ask whether the other end is still there.

    First after `idle` seconds of silence, then every `interval`
    seconds; it gives up when `count` in a row got no answer.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, idle),
        (socket.TCP_KEEPINTVL, interval),
        (socket.TCP_KEEPCNT, count),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
# --8<-- [end:probe]


def state(sock):
    on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, interval, count = (
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (
            socket.TCP_KEEPIDLE,
            socket.TCP_KEEPINTVL,
            socket.TCP_KEEPCNT,
        )
    )
    return (
        f"{'on' if on else 'off'}: after {idle} s of silence, "
        f"every {interval} s, {count} times"
    )


# --8<-- [start:main]
def main():
    address = urlsplit(URL)
    with socket.create_connection(
        (address.hostname, address.port or 80)
    ) as sock:
        print("a new socket:", state(sock), flush=True)
        if PROBES:
            probe(sock, idle=1, interval=1, count=2)
            print("with probes:", state(sock), flush=True)
        # Nothing is sent, and nothing is to come, but for an end.
        if select.select([sock], [], [], SECONDS)[0]:
            try:
                sock.recv(1)
            except TimeoutError:
                sys.exit("the other end is gone: no probe came back")
            print("the server closed the connection")
        else:
            print("nothing happened")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"no connection to {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
