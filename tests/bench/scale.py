"""Growth: what a publish costs with more topics and a longer log; the first limit that is met."""

import resource
import tempfile
import time
from pathlib import Path

from ..support.processes import ROOT
from .harness import NotMeasured, Server
from .log import store_of_the_example

FILES = 1_024  # the limit on open files that most shells and services start with
TOPICS = (10, 100, 1_000)
ROWS = (1_000, 10_000, 100_000)
CONTENDERS = (
    {f"{number:,} topics": ("topics", number) for number in TOPICS}
    | {f"{number:,} events in the log": ("rows", number) for number in ROWS}
    | {f"{FILES:,} open files": ("files", FILES)}
)


def one(load, name, plan):
    kind, number = CONTENDERS[name]
    return {"topics": with_topics, "rows": with_rows, "files": with_files}[kind](load, number, plan)


def with_topics(load, number, plan):
    """Publish to one of many topics that have a subscriber each; return the cost of a publish."""
    with Server("notifications/server.py") as server:
        path = "/notifications/socket?user=u{n}&topic=t{n}&topic=news{n}"
        try:
            load.ask("open", kind="socket", port=server.port, path=path, count=number - 1)
            load.ask("follow", technique="socket", port=server.port, count=1)
            server.settle()
            how = {"port": server.port, "rate": 1_000, "events": 200, "count": 1}
            load.ask("publish", **how)  # to warm up
            used = server.cpu()
            load.ask("publish", **how)
            return {"microseconds": (server.cpu() - used) / 200 * 1e6}
        finally:
            load.ask("close")


def with_rows(load, number, plan):
    """Publish to a log of some length, and read a page from its middle; return the cost of both."""
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        log = store_of_the_example()(Path(folder) / "log.db")
        log.append([(f"topics/{n % 100}", "an event", None) for n in range(number)], {})
        used = time.thread_time()
        for _ in range(200):
            log.append([("topics/1", "an event", None)], {})
        publish = (time.thread_time() - used) / 200
        used = time.thread_time()
        for _ in range(200):
            log.after(number // 2, {"topics/1"})
        page = (time.thread_time() - used) / 200
        log.db.close()
    return {"microseconds": publish * 1e6, "page": page * 1e6}


def with_files(load, number, plan):
    """Open more connections than a server may have files; return how many it holds."""
    with Server("holding_connections/server.py", HOLD=3600) as server:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (number, number))
        try:
            load.ask("open", kind="poll", port=server.port, path="/poll", count=number + 100)
            server.settle()
            held = load.ask("state")["open"]
        finally:
            load.ask("close")
    if held > number:
        raise NotMeasured(f"{held} connections with {number} open files")
    return {"held": held}
