"""A broadcast of long messages while one connection in 100 does not read."""

import statistics

from . import broadcast
from .harness import Server, unsaturated

LENGTH = 65_536  # bytes of a message
FILL = 120  # messages, more than the buffers of the kernel hold for a connection
# Their messages are short: this is a limit of each.
SHORT = {
    *("notifications/server.py", "scaling_out/gateway.py"),
    "holding_connections/server_websockets.py",
}
CONTENDERS = {name: how for name, how in broadcast.CONTENDERS.items() if name not in SHORT}


def one(load, name, plan):
    """Broadcast before and after some clients stop reading; return both times."""
    program, path, publish, form = CONTENDERS[name]
    size = max(100, min(300, plan["sizes"][0]))
    stalled = size // 100
    with Server(program, PING=3600) as server:
        how = {"port": server.port, "path": publish or "/", "in_band": publish is None}
        how["body"] = form.format("x" * LENGTH)
        try:
            load.ask("open", kind="socket", port=server.port, path=path, count=size)
            server.settle()
            before = server.pss()
            healthy = unsaturated(load.ask("broadcast", count=size, times=5, **how))
            load.ask("stall", count=stalled)
            load.ask("broadcast", count=size - stalled, times=FILL, **how)
            reply = unsaturated(load.ask("broadcast", count=size - stalled, times=5, **how))
            grown = (server.pss() - before) / 1024 / stalled
        finally:
            load.ask("close")
    times = [statistics.median(each["seconds"]) for each in (healthy, reply)]
    return {"healthy": times[0], "stalled": times[1], "grown": grown, "clients": size}
