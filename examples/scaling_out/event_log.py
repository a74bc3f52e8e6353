"""The log of events in Redis that gateways and workers share.

- Used by: gateway.py, worker.py
- Source: Redis Streams,
  https://redis.io/docs/latest/develop/data-types/streams/
"""

import asyncio
import json
import os
from collections import deque

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
MAX_EVENTS = int(os.environ.get("MAX_EVENTS", 100_000))  # about
CACHED_EVENTS = int(os.environ.get("CACHED_EVENTS", 1000))
HEARTBEAT_INTERVAL = float(os.environ.get("HEARTBEAT_INTERVAL", 15))
RETRY_INTERVAL = float(os.environ.get("RETRY_INTERVAL", 1))  # s
KEY_TTL = int(os.environ.get("KEY_TTL", 3600))  # s


def connect_redis():
    """Return a client of Redis that never sends a command twice."""
    pool = BlockingConnectionPool.from_url(
        REDIS,
        max_connections=10,  # however many clients a gateway has
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


# --8<-- [start:append]
# A script is atomic: no other command runs between GET and XADD.
APPEND_ONCE = """
local id = redis.call('GET', KEYS[2])
if not id then
    id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*',
        'text', ARGV[2])
    redis.call('SET', KEYS[2], id, 'EX', ARGV[3])
end
return id
"""


async def append(redis, stream, text, key="", max_length=MAX_EVENTS):
    """Append an entry to a stream; return its id.

    With a key, a repeated call appends nothing and returns the same
    id, so a publisher that received no response may retry.
    """
    if not key:
        fields = {"text": text}
        return await redis.xadd(stream, fields, maxlen=max_length)
    keys = [stream, f"once:{stream}:{key}"]
    return await redis.eval(
        APPEND_ONCE, 2, *keys, max_length, text, KEY_TTL
    )
# --8<-- [end:append]


# --8<-- [start:read]
class CursorExpired(Exception):
    """The log does not contain the event after which to resume."""


async def read_page(redis, seen, count=100):
    """Return up to `count` entries after the id `seen`.

    The entry `seen` is requested too: if it has been trimmed, entries
    after it may be missing as well. One command shows both.
    """
    if seen == "0-0":  # everything in the log
        return await redis.xrange("events", count=count)
    entries = await redis.xrange("events", min=seen, count=count + 1)
    if not entries or entries[0][0] != seen:
        raise CursorExpired(f"the log has no event {seen}")
    return entries[1:]
# --8<-- [end:read]


# --8<-- [start:cache]
class EventCache:
    """The newest events in memory, read once for all clients."""

    def __init__(self, redis):
        self.redis = redis
        self.events = deque(maxlen=CACHED_EVENTS)  # (id, message)
        self.updated = asyncio.Event()

    # --8<-- [start:follow]
    async def follow(self):
        """Read new entries, always from the last id that was read."""
        while True:
            try:
                if not self.events:
                    newest = await self.redis.xrevrange(
                        "events", count=CACHED_EVENTS
                    )
                    self.add(newest[::-1] or [("0-0", {})])
                last = self.events[-1][0]
                # XREAD only waits. read_page() returns the entries,
                # and notices if one of them has been trimmed.
                await self.redis.xread(
                    {"events": last}, count=1, block=1000
                )
                self.add(await read_page(self.redis, last))
            except CursorExpired:
                self.events.clear()  # start again from what is there
            except RedisError:
                await asyncio.sleep(RETRY_INTERVAL)
    # --8<-- [end:follow]

    def add(self, entries):
        """Encode entries once for all clients, and wake their tasks."""
        self.events.extend(map(encode, entries))
        if entries:
            self.updated.set()
            self.updated = asyncio.Event()

    async def since(self, seen):
        """Return the events after that id, from memory or Redis."""
        new = []
        for event in reversed(self.events):
            if event[0] == seen:
                return new[::-1]
            new.append(event)
        return [encode(e) for e in await read_page(self.redis, seen)]

    async def after(self, seen):
        """Yield a message for each event after that id, for ever.

        A heartbeat after HEARTBEAT_INTERVAL seconds without an event.
        """
        while True:
            updated = self.updated  # before reading, to miss nothing
            new = await self.since(seen)
            for id, message in new:
                yield message
                seen = id
            if not new:
                try:
                    async with asyncio.timeout(HEARTBEAT_INTERVAL):
                        await updated.wait()
                except TimeoutError:
                    yield json.dumps({"heartbeat": seen})


def encode(entry):
    """Return (id, message) for an entry of the log."""
    id, fields = entry
    return id, json.dumps({"id": id, **fields})
# --8<-- [end:cache]
