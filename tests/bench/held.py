"""Held connections: memory for each, and processor time while nothing happens or pings go round."""

import json
import re
import time
import urllib.request
from pathlib import Path

from .broadcast import needs
from .harness import NotMeasured, Server, fitted

LONG = {"HOLD": 3600, "MAX_WAIT": 3600}
PREFER = "Prefer: wait=3600\r\n"
REPEATS = 2  # at most: memory is the same each time
DEFLATE = {"COMPRESSION": "deflate"}
OWN = "holding_connections/server_hardened.py"

# name: (kind, program, path, variables). Those with a slash are the examples of this site, as they
# are; {token} is that of a job which they were given before.
CONTENDERS = {
    "long poll: asyncio.Protocol": ("poll", "protocol.py", "/poll", {}),
    "long poll: asyncio streams": ("poll", "streams.py", "/poll", {}),
    "long poll: Sanic": ("poll", "sanic_.py", "/poll", {}),
    "long poll: aiohttp": ("poll", "aiohttp_.py", "/poll", {}),
    "long poll: Starlette": ("poll", "starlette_.py", "/poll", {}),
    "long poll: long_polling/server.py": ("poll", "long_polling/server.py", "/jobs/{token}", LONG),
    "long poll: long_polling/server_hardened.py": (
        "poll",
        "long_polling/server_hardened.py",
        "/jobs/{token}",
        LONG,
    ),
    f"long poll: {OWN}": ("poll", OWN, "/poll", LONG),
    "event stream: Sanic": ("stream", "sanic_.py", "/stream", {}),
    "event stream: aiohttp": ("stream", "aiohttp_.py", "/stream", {}),
    "event stream: Starlette": ("stream", "starlette_.py", "/stream", {}),
    "event stream: server_sent_events/server.py": (
        "stream",
        "server_sent_events/server.py",
        "/jobs/{token}/events",
        {},
    ),
    "event stream: notifications/server.py": (
        "stream",
        "notifications/server.py",
        "/notifications/events?user=ada&topic=news",
        {},
    ),
    "WebSocket: Sanic": ("socket", "sanic_.py", "/socket", {}),
    "WebSocket: websockets": ("socket", "websockets_.py", "/", {}),
    "WebSocket: websockets, compressed": ("deflate", "websockets_.py", "/", DEFLATE),
    "WebSocket: aiohttp": ("socket", "aiohttp_.py", "/socket", {}),
    "WebSocket: Starlette": ("socket", "starlette_.py", "/socket", {}),
    "WebSocket: picows": ("socket", "picows_.py", "/", {}),
    "WebSocket: websockets/server.py": ("socket", "websockets/server.py", "/jobs/socket", {}),
    "WebSocket: websockets/server_websockets.py": (
        "socket",
        "websockets/server_websockets.py",
        "/jobs/socket",
        {},
    ),
    "WebSocket: notifications/broadcast.py": (
        "socket",
        "notifications/broadcast.py",
        "/events",
        {},
    ),
    "WebSocket: notifications/server.py": (
        "socket",
        "notifications/server.py",
        "/notifications/socket?user=ada&topic=news",
        {},
    ),
    "WebSocket: scaling_out/gateway.py": ("socket", "scaling_out/gateway.py", "/events", {}),
}


def submit_job(server):
    """Submit a job of the greatest length to an example; return its token."""
    url = f"http://127.0.0.1:{server.port}/jobs"
    request = urllib.request.Request(url, b'{"seconds": 60}', {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["token"]


def slab():
    """Return the kernel's memory for its own objects, of the whole machine, in KiB."""
    return int(re.search(r"Slab: +(\d+)", Path("/proc/meminfo").read_text())[1])


def one(load, name, plan):
    """Hold more and more connections of one contender; return what each number takes."""
    kind, program, path, variables = CONTENDERS[name]
    options = {"kind": "socket", "deflate": True} if kind == "deflate" else {"kind": kind}
    options["fields"] = PREFER if "{token}" in path and kind == "poll" else ""
    with needs(program) as more, Server(program, **variables, **more) as server:
        if "{token}" in path:
            path = path.format(token=submit_job(server))
        if more:
            server.settle()  # the gateway reads the log before it accepts clients
        try:
            opened = min(20, plan["sizes"][0])  # to warm up
            load.ask("open", port=server.port, path=path, count=opened, **options)
            server.settle()
            points, before = [], slab()
            used = server.cpu()
            for size in plan["sizes"]:
                load.ask("open", port=server.port, path=path, count=size - opened, **options)
                opened = size
                server.settle()
                points.append([size, server.pss()])
            kernel = (slab() - before) / 2 / opened
            opening = (server.cpu() - used) / opened * 1e6
            used, began = server.cpu(), time.monotonic()
            time.sleep(plan["window"])
            idle = (server.cpu() - used) / (time.monotonic() - began)
            state = load.ask("state")
        finally:
            load.ask("close")
    if state["open"] != opened or state["answered"]:
        ended = opened - state["open"]
        raise NotMeasured(f"{ended} connections were closed, {state['answered']} polls answered")
    slope, base = fitted(points)
    found = {"points": points, "kib": slope, "base": base, "idle": idle}
    return found | {"kernel": kernel, "opening": opening}
