"""A broadcast: one message to all held connections, and to all but those that stall."""

import statistics
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ..support import parts
from .harness import NotMeasured, Server, free_port, unsaturated

REPEATS = 2  # at most: 10,000 connections take long to open
TEXT = "x" * 100
# name: (program, path of subscribers, path for the publisher or None: over a connection, format)
CONTENDERS = {
    "Sanic": ("sanic_.py", "/subscribe", "/publish", "{}"),
    "websockets, broadcast()": ("websockets_.py", "/", None, "{}"),
    "aiohttp": ("aiohttp_.py", "/subscribe", "/publish", "{}"),
    "Starlette": ("starlette_.py", "/subscribe", "/publish", "{}"),
    "picows": ("picows_.py", "/", None, "{}"),
    "notifications/broadcast.py": (
        "notifications/broadcast.py",
        "/events",
        "/events",
        '{{"text": "{}"}}',
    ),
    "holding_connections/server_websockets.py": (
        "holding_connections/server_websockets.py",
        "/",
        None,
        "release",  # to which it responds with a short message to all
    ),
    "scaling_out/gateway.py": (
        "scaling_out/gateway.py",
        "/events",
        "/events",
        '{{"text": "{}"}}',
    ),
    "notifications/server.py": (
        "notifications/server.py",
        "/notifications/socket?user=ada&topic=news",
        "/topics/news",
        '{{"text": "{}"}}',
    ),
}


@contextmanager
def needs(program):
    """Yield the variables of a program that names Redis, and run one for it meanwhile."""
    if not program.startswith("scaling_out/"):
        yield {}
        return
    if not parts.found("redis-server"):
        raise NotMeasured("redis-server is not installed: sudo apt-get install redis-server")
    with tempfile.TemporaryDirectory() as folder:
        redis = parts.redis(Path(folder) / "redis", free_port())
        try:
            yield {"REDIS": f"redis://127.0.0.1:{redis.port}", "HEARTBEAT_INTERVAL": 3600}
        finally:
            redis.stop()


def one(load, name, plan):
    """Broadcast at several numbers of connections."""
    program, path, publish, form = CONTENDERS[name]
    found = {}
    quiet = {"PING": 3600, "PING_INTERVAL": 3600}
    with needs(program) as variables, Server(program, **quiet, **variables) as server:

        def send(text, count, times):
            body = form.format(text)
            how = {"port": server.port, "path": publish or "/", "in_band": publish is None}
            used = server.cpu()
            reply = load.ask("broadcast", body=body, count=count, times=times, **how)
            server.settle()
            return reply, (server.cpu() - used) / (count * times) * 1e6

        try:
            server.settle()  # the gateway reads the log before it accepts clients
            opened = 0
            for size in plan["sizes"]:
                load.ask("open", kind="socket", port=server.port, path=path, count=size - opened)
                opened = size
                server.settle()
                send(TEXT, size, 2)  # to warm up
                reply, used = send(TEXT, size, 5)
                unsaturated(reply)
                found[str(size)] = {
                    "seconds": statistics.median(reply["seconds"]),
                    "microseconds": used,
                }
        finally:
            load.ask("close")
    return found
