"""A broadcast while one connection in 100 does not read, and after those are gone.

The stalled clients connect first and are filled while no other is there: so the buffers of the
kernel are full at 10,000 connections too, without as many times the data.
"""

import statistics

from . import broadcast
from .harness import Server, unsaturated

REPEATS = 2  # at most: thousands of connections take long to open
FILL = 8 * 2**20  # bytes for each stalled client, more than the buffers of the kernel hold
LENGTH = 65_536  # bytes of a message that fills them
# Their messages are short: this is a limit of each.
LEFT_OUT = {
    *("notifications/server.py", "scaling_out/gateway.py"),
    "holding_connections/server_websockets.py",
}
CONTENDERS = {name: how for name, how in broadcast.CONTENDERS.items() if name not in LEFT_OUT}
FULL_ONLY = {"aiohttp", "Starlette"}


def one(load, name, plan):
    """Broadcast to all that read, with and without stalled ones, at each number of connections."""
    sizes = plan["sizes"] if plan["mode"] == "full" else plan["sizes"][:1]
    return {str(size): of_size(load, name, size) for size in sizes}


def of_size(load, name, size):
    program, path, publish, form = CONTENDERS[name]
    stalled = size // 100
    with Server(program, PING=3600) as server:

        def send(text, count, times):
            how = {"port": server.port, "path": publish or "/", "in_band": publish is None}
            return load.ask("broadcast", body=form.format(text), count=count, times=times, **how)

        def measure():
            send(broadcast.TEXT, size - stalled, 2)  # to warm up
            server.settle()
            used = server.cpu()
            reply = unsaturated(send(broadcast.TEXT, size - stalled, 5))
            server.settle()
            used = (server.cpu() - used) / 5 / (size - stalled) * 1e6
            return statistics.median(reply["seconds"]), used

        try:
            opening = {"kind": "socket", "port": server.port, "path": path}
            load.ask("open", count=stalled + 1, **opening)  # the last one reads, and may publish
            before = server.pss()
            load.ask("stall", count=stalled)
            send("x" * LENGTH, 1, FILL // LENGTH)
            server.settle()
            grown = (server.pss() - before) / 1024 / stalled
            load.ask("open", count=size - stalled - 1, **opening)
            with_stalled, used = measure()
            load.ask("drop", count=stalled)
            healthy, least = measure()
        finally:
            load.ask("close")
    found = {"healthy": healthy, "stalled": with_stalled, "grown": grown}
    return found | {"microseconds": least, "with_stalled": used}
