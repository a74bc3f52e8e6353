"""What an event costs the server by each technique, at two rates of events.

notifications/server.py has all three on one log. Publishing alone is measured as well, and
subtracted.
"""

from .harness import NotMeasured, Server

RATES = (2, 20)  # events a second
CONTENDERS = {
    f"{technique} at {rate}": (technique, rate)
    for technique in ("poll", "stream", "socket")
    for rate in RATES
} | {f"nobody at {rate}": ("stream", rate) for rate in RATES}


def one(load, name, plan):
    """Publish events to clients that follow; return the processor time that they took."""
    technique, rate = CONTENDERS[name]
    clients = 0 if name.startswith("nobody") else 100
    seconds = 3 if plan["mode"] == "full" else 1
    with Server("notifications/server.py") as server:
        try:
            load.ask("follow", technique=technique, port=server.port, count=clients)
            server.settle()
            events, used = max(2, rate * seconds), server.cpu()
            how = {"port": server.port, "rate": rate, "count": clients}
            reply = load.ask("publish", events=events, **how)
            server.settle()
            used = server.cpu() - used
        finally:
            load.ask("close")
    if reply["received"] != events * clients:
        raise NotMeasured(f"{reply['received']} of {events * clients} events arrived")
    return {"microseconds": used / events * 1e6, "clients": clients}
