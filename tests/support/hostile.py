"""Count the tasks, descriptors and memory that a hostile client leaves in a server."""

import os
import re
import signal
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread

from .processes import ROOT, TIMEOUT, wait_until

# The environment of a server whose tasks `tasks()` is to count.
PROBE = {"PYTHONPATH": ROOT / "tests/support/probe"}


def tasks(server):
    """Return how many asyncio tasks a server has; it was started with PROBE."""
    pattern = re.compile(r"(?m)^probe: (\d+) tasks$")
    known = len(pattern.findall(server.output))
    os.kill(server.process.pid, signal.SIGUSR1)
    return int(wait_until(lambda: pattern.findall(server.output)[known:])[0])


def descriptors(server):
    """Return how many files and sockets a server has open."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def memory(server):
    """Return the resident memory of a server, in KiB."""
    return server.status("VmRSS")


@dataclass
class Level:
    """What a server holds now, to be compared with what it holds later."""

    tasks: int
    descriptors: int
    memory: int

    @classmethod
    def of(cls, server):
        return cls(tasks(server), descriptors(server), memory(server))


def assert_level(server, before, growth=24_000):
    """Wait until a server has no more tasks and descriptors than before; check its memory.

    `growth`: what its memory may have grown by, in KiB.
    """
    end = time.monotonic() + TIMEOUT
    while (now := Level.of(server)).tasks > before.tasks or now.descriptors > before.descriptors:
        assert time.monotonic() < end, f"before: {before}, now: {now}"
        time.sleep(0.1)
    assert now.memory < before.memory + growth, f"before: {before}, now: {now}"


def flood(client, data, seconds=1.0, reading=False, size=float("inf"), stall=0.3):
    """Send `data` over and over until time is up, `size` bytes are sent, the server stalls or it
    closes; return the number of bytes sent.

    `reading`: whether to read what the server sends meanwhile, as an honest client does.
    `stall`: a server that reads nothing for as many seconds has stalled.
    """
    sent, end = 0, time.monotonic() + seconds
    if reading:
        Thread(target=discard, args=[client], daemon=True).start()
    client.settimeout(stall)
    with suppress(OSError):
        while time.monotonic() < end and sent < size:
            client.sendall(data)
            sent += len(data)
    client.settimeout(TIMEOUT)
    return sent


def discard(client):
    """Read and forget what comes, until the connection ends."""
    with suppress(OSError):
        while client.recv(65536):
            pass


def reset(client):
    """End a connection with a reset in place of an orderly close, whatever is in flight."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        client.shutdown(socket.SHUT_RD)  # wakes a thread that reads, and keeps the socket open
    client.close()
