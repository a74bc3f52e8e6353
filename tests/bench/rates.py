"""What a client costs the server by each technique: for an event, and while there is none.

notifications/server.py has all techniques on one log. Events are published at two rates;
publishing alone is measured as well, and subtracted. Then nothing is published, and polls expire,
short polls find nothing, streams get heartbeats and WebSocket connections pings.
"""

from .harness import NotMeasured, Server

CLIENTS = 100
RATES = (2, 20)  # events a second
SILENT = {  # technique: (variables of the server, how the clients follow), often for a measurement
    "short": ({}, {"technique": "poll", "hold": 0, "interval": 0.2}),
    "poll": ({}, {"technique": "poll", "hold": 1}),
    "stream": ({"HEARTBEAT": 0.2}, {"technique": "stream"}),
    "socket": ({"PING_INTERVAL": 0.5}, {"technique": "socket"}),
}
CONTENDERS = (
    {
        f"{technique} at {rate}": (technique, rate)
        for technique in ("poll", "stream", "socket")
        for rate in RATES
    }
    | {f"nobody at {rate}": ("stream", rate) for rate in RATES}
    | {f"{technique}, silent": (technique, 0) for technique in SILENT}
)
FULL_ONLY = {name for name, (_, rate) in CONTENDERS.items() if rate == RATES[0]}


def one(load, name, plan):
    """Let clients follow; return the processor time and the bytes that they took."""
    technique, rate = CONTENDERS[name]
    seconds = 3 if plan["mode"] == "full" else 0.5
    if not rate:
        return silent(load, *SILENT[technique], max(1, seconds))
    clients = 0 if name.startswith("nobody") else CLIENTS
    with Server("notifications/server.py") as server:
        try:
            load.ask("follow", technique=technique, port=server.port, count=clients)
            server.settle()
            events, used = max(2, int(rate * seconds)), server.cpu()
            how = {"port": server.port, "rate": rate, "count": clients}
            reply = load.ask("publish", events=events, **how)
            server.settle()
            used = server.cpu() - used
        finally:
            load.ask("close")
    if reply["received"] != events * clients:
        raise NotMeasured(f"{reply['received']} of {events * clients} events arrived")
    found = {"microseconds": used / events * 1e6, "clients": clients}
    return found | ({"bytes": reply["bytes"] / events / clients} if clients else {})


def silent(load, variables, how, seconds):
    """Return what a poll without an event costs, a heartbeat, or a ping with its pong."""
    with Server("notifications/server.py", **variables) as server:
        try:
            load.ask("follow", port=server.port, count=CLIENTS, **how)
            load.ask("wait", seconds=0.5)
            began, used = load.ask("state"), server.cpu()
            load.ask("wait", seconds=seconds)
            ended, used = load.ask("state"), server.cpu() - used
        finally:
            load.ask("close")
    times, passed = (
        sum(ended[key] - began[key] for key in keys) for keys in (("silent", "pings"), ("bytes",))
    )
    if not times:
        raise NotMeasured("no poll expired, and no heartbeat or ping came")
    return {"microseconds": used / times * 1e6, "bytes": passed / times}
