"""The same job for five hundred clients, by every technique, on the quick starts of this site."""

import statistics

from .harness import Server, unsaturated

CONTENDERS = {
    "short polling, each second": ("short_polling/server.py", "short_polling"),
    "long polling": ("long_polling/server.py", "long_polling"),
    "event stream": ("server_sent_events/server.py", "event_stream"),
    "WebSocket": ("websockets/server.py", "websocket"),
}
CLIENTS = 500


def one(load, name, plan):
    """Let the clients submit their jobs and receive the results; return what that took."""
    program, technique = CONTENDERS[name]
    seconds = 6 if plan["mode"] == "full" else 2  # of the longest job
    with Server(program) as server:
        server.settle()
        used = server.cpu()
        how = {"technique": technique, "seconds": seconds, "interval": 1}
        reply = unsaturated(load.ask("jobs", port=server.port, count=CLIENTS, **how))
        server.settle()
        used = server.cpu() - used
    percent = statistics.quantiles(reply["late"], n=100)
    return {
        "requests": reply["requests"] / CLIENTS,
        "bytes": (reply["up"] + reply["down"]) / CLIENTS,
        "milliseconds": used / CLIENTS * 1000,
        "median": percent[49] * 1000,
        "p99": percent[98] * 1000,
        "seconds": seconds,
    }
