"""A broadcast: one message to all held connections, and to all but those that stall."""

import statistics

from .harness import Server, unsaturated

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
    "notifications/server.py": (
        "notifications/server.py",
        "/notifications/socket?user=ada&topic=news",
        "/topics/news",
        '{{"text": "{}"}}',
    ),
}


def one(load, name, plan):
    """Broadcast at several numbers of connections."""
    program, path, publish, form = CONTENDERS[name]
    found = {}
    with Server(program, PING=3600, PING_INTERVAL=3600, MAX_FILES=20_000) as server:

        def send(text, count, times):
            body = form.format(text)
            how = {"port": server.port, "path": publish or "/", "in_band": publish is None}
            used = server.cpu()
            reply = load.ask("broadcast", body=body, count=count, times=times, **how)
            server.settle()
            return reply, (server.cpu() - used) / (count * times) * 1e6

        try:
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
