"""Held WebSocket connections that are pinged each second, by clients that respond."""

import time

from .harness import NotMeasured, Server, unsaturated

EACH = {"PING": 1}
CONTENDERS = {
    "Sanic": ("sanic_.py", "/socket", EACH),
    "websockets": ("websockets_.py", "/", EACH),
    "aiohttp": ("aiohttp_.py", "/socket", EACH),
    "Starlette": ("starlette_.py", "/socket", EACH),
    "picows": ("picows_.py", "/", EACH),
    "notifications/server.py": (
        "notifications/server.py",
        "/notifications/socket?user=ada&topic=news",
        {"PING_INTERVAL": 1},
    ),
}


def one(load, name, plan):
    """Hold connections while pings go round; return processor time and memory of a ping."""
    program, path, variables = CONTENDERS[name]
    size = plan["sizes"][-1] // 5
    with Server(program, **variables) as server:
        try:
            load.ask("open", kind="socket", port=server.port, path=path, count=size)
            before = server.pss()
            time.sleep(1)
            began, used = load.ask("state"), server.cpu()
            unsaturated(load.ask("wait", seconds=1 if plan["mode"] == "quick" else 3))
            ended, used = load.ask("state"), server.cpu() - used
            grown = server.pss() - before
        finally:
            load.ask("close")
    pings = ended["pings"] - began["pings"]
    if ended["open"] != size or not pings:
        raise NotMeasured(f"{size - ended['open']} connections were closed, {pings} pings came")
    return {"microseconds": used / pings * 1e6, "pings": pings, "kib": grown / size}
