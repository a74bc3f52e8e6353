"""The log: publishes a second, and clients that catch up, on SQLite and on Redis.

The store is that of notifications/server.py, in this process; Redis is the server itself, with its
append-only file. Both write to the disk that holds this repository.
"""

import runpy
import tempfile
import time
from functools import cache
from pathlib import Path

from redis import Redis

from ..support import parts
from ..support.processes import EXAMPLES, ROOT
from .harness import NotMeasured, free_port

BATCHES = (1, 10, 100)
CLIENTS, CHANNELS = 500, 1_000
# name: (database, how it syncs or whether it has an index, events in one commit or 0: catch up)
CONTENDERS = {
    f"{database}, {sync}, {batch} in a commit": (database, sync, batch)
    for database, syncs in (("SQLite", ("FULL", "NORMAL")), ("Redis", ("always", "everysec")))
    for sync in syncs
    for batch in BATCHES
} | {
    "SQLite, catch-up with the index": ("SQLite", "index", 0),
    "SQLite, catch-up without the index": ("SQLite", "no index", 0),
    "Redis, catch-up": ("Redis", "everysec", 0),
}


@cache
def store_of_the_example():
    """Return the class that stores events in SQLite; the module can be loaded once."""
    return runpy.run_path(str(EXAMPLES / "notifications/server.py"))["Store"]


def one(load, name, plan):
    database, how, batch = CONTENDERS[name]
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        run = sqlite if database == "SQLite" else redis
        return run(Path(folder), how, batch, plan)


def repeat(publish, batch, seconds):
    """Publish batches for a time; return the events a second."""
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        publish(count)
        count += batch
    return count / took


def timed(catch_up):
    """Return the seconds until all clients have caught up."""
    began = time.perf_counter()
    received = sum(catch_up(f"users/{client}") for client in range(CLIENTS))
    took = time.perf_counter() - began
    if not received:
        raise NotMeasured("no client received an event")
    return took


def sqlite(folder, how, batch, plan):
    store = store_of_the_example()(folder / "log.db")
    if batch:
        store.db.execute(f"PRAGMA synchronous = {how}")
        events = [("topics/news", "an event", None)] * batch
        found = {"publishes": repeat(lambda _: store.append(events, {}), batch, plan["window"])}
    else:
        rows = plan["rows"]
        store.append([(f"users/{n % CHANNELS}", "an event", None) for n in range(rows)], {})
        if how == "no index":
            store.db.execute("DROP INDEX log_by_channel")

        def catch_up(channel):
            last, received = 0, 0
            while events := store.after(last, {channel, "topics/server"}):
                last, received = events[-1][0], received + len(events)
            return received

        found = {"catch_up": timed(catch_up)}
    store.db.close()
    return found


def redis(folder, how, batch, plan):
    if not parts.found("redis-server"):
        raise NotMeasured("redis-server is not installed: sudo apt-get install redis-server")
    server = parts.redis(folder / "redis", free_port(), "--appendfsync", how)
    client = Redis(port=server.port)
    try:
        if batch:

            def publish(count):
                pipeline = client.pipeline(transaction=False)
                for _ in range(batch):
                    pipeline.xadd("news", {"text": "an event"}, maxlen=100_000, approximate=True)
                pipeline.execute()

            return {"publishes": repeat(publish, batch, plan["window"])}
        pipeline = client.pipeline(transaction=False)
        for n in range(plan["rows"]):
            pipeline.xadd(f"users/{n % CHANNELS}", {"text": "an event"})
        pipeline.execute()
        return {"catch_up": timed(lambda channel: len(client.xrange(channel)))}
    finally:
        client.close()
        server.stop()
