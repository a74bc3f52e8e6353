"""Extend the measured costs to millions of clients: arithmetic, and a queue of handshakes."""

import heapq
import random

PER_GATEWAY = 20_000  # clients of one process
PING = 20  # seconds; the default of Sanic and websockets
TIMEOUT = 10  # seconds that a client waits for a handshake; the default of websockets
PACKET = 52  # bytes of IPv4 and TCP headers with timestamps
MOST = 20  # attempts for each client, after which it is said never to connect


def capacity(clients, cost):
    """Return what so many clients need.

    `cost`: kib and base_kib of memory, microseconds of a ping, of a delivery and of a handshake,
    and bytes of a message.
    """
    gateways = -(-clients // PER_GATEWAY)
    per_second = clients / 60  # an event a minute for each
    traffic = per_second * (cost["bytes"] + PACKET) + clients / PING * 2 * (8 + PACKET)
    return {
        "gateways": gateways,
        "memory_gib": (gateways * cost["base_kib"] + clients * cost["kib"]) / 2**20,
        "ping_cores": clients / PING * cost["ping"] / 1e6,
        "event_cores": per_second * cost["delivery"] / 1e6,
        "broadcast_seconds": min(clients, PER_GATEWAY) * cost["delivery"] / 1e6,
        "failed_handshakes": PER_GATEWAY / max(1, gateways - 1),
        "handshake_seconds": clients * cost["handshake"] / 1e6,
        "megabits": traffic * 8 / 1e6,
    }


def storm(clients, microseconds, spread, backoff=True, seed=1):
    """Let all clients of a gateway reconnect; return when the last has, and how often they tried.

    Each begins at a random time within `spread` seconds. The gateway does one handshake after the
    other. A client that waited for TIMEOUT gives up, and the gateway's work for it is wasted; it
    retries after a delay that doubles, at random between half and all of it, or at once.
    """
    choose = random.Random(seed)
    queue = [(choose.uniform(0, spread), 0) for _ in range(clients)]
    heapq.heapify(queue)
    free, tried, last = 0.0, 0, 0.0
    while queue and tried < MOST * clients:
        arrived, attempt = heapq.heappop(queue)
        tried += 1
        free = max(free, arrived) + microseconds / 1e6
        if free - arrived <= TIMEOUT:
            last = free
            continue
        delay = min(90, 3 * 2**attempt) * choose.uniform(0.5, 1) if backoff else 0
        heapq.heappush(queue, (arrived + TIMEOUT + delay, attempt + 1))
    return {"seconds": None if queue else last, "tried": tried / clients}
