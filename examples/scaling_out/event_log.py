"""The log of events in Redis that gateways and workers share.

- Used by: gateway.py, worker.py
- Source: Redis Streams,
  https://redis.io/docs/latest/develop/data-types/streams/
"""

import asyncio
import json
import os
import re
from collections import deque

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
MAX_EVENTS = int(os.environ.get("MAX_EVENTS", 100_000))  # roughly
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
        encoding_errors="surrogateescape",  # see is_text()
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


def diagnose(error):
    """Return what is wrong with Redis: down, full or misconfigured."""
    if isinstance(error, OutOfMemoryError):
        return "full"
    # A wrong password, missing rights, a node of a cluster …
    if isinstance(error, AuthenticationError | ResponseError):
        return "misconfigured"
    return "down"


def is_text(text):
    """Return whether this is text without control characters.

    Bytes that are no UTF-8 arrive as lone surrogates (PEP 383).
    """
    invalid = "[\0-\x1f\x7f-\x9f\ud800-\udfff]"
    return isinstance(text, str) and not re.search(invalid, text)


def is_id(text):
    """Return whether this is the id of an entry: two 64-bit numbers."""
    if not re.fullmatch("[0-9]{1,20}-[0-9]{1,20}", text):
        return False
    return all(int(number) < 2**64 for number in text.split("-"))


# --8<-- [start:append]
# A script is atomic: no other command runs between GET and XADD.
APPEND_ONCE = """
local stored = redis.call('HMGET', KEYS[2], 'id', 'text')
if stored[1] then
    return {stored[1], stored[2]}
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*',
    'text', ARGV[2])
redis.call('HSET', KEYS[2], 'id', id, 'text', ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return {id, ARGV[2]}
"""


class KeyReused(Exception):
    """The key was sent before, with another text."""


async def append(redis, stream, text, key="", max_length=MAX_EVENTS):
    """Append an entry to a stream; return its id.

    With a key, a repeated call appends nothing and returns the same
    id, so a publisher that received no response may retry. KeyReused
    if the text is not the same.
    """
    if not key:
        fields = {"text": text}
        return await redis.xadd(stream, fields, maxlen=max_length)
    # In a Redis cluster, the braces put both keys on one node.
    keys = [stream, f"once:{{{stream}}}:{key}"]
    event_id, stored = await redis.eval(
        APPEND_ONCE, 2, *keys, max_length, text, KEY_TTL
    )
    if stored != text:
        raise KeyReused("this key was used for another text")
    return event_id
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
    """The newest events in memory, read once for all clients.

    `report(problem, detail)` is called for each problem with the log.
    """

    def __init__(self, redis, report):
        self.redis = redis
        self.report = report
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
                    # No entry has the id 0-0: the log is empty.
                    self.add(newest[::-1] or [("0-0", {})])
                last = self.events[-1][0]
                # XREAD only waits. read_page() returns the entries,
                # and notices if one of them has been trimmed.
                await self.redis.xread(
                    {"events": last}, count=1, block=1000
                )
                self.add(await read_page(self.redis, last))
            except CursorExpired as error:
                self.report("trimmed", error)
                self.events.clear()  # start again from what is there
            except RedisError as error:
                self.report(diagnose(error), error)
                await asyncio.sleep(RETRY_INTERVAL)
    # --8<-- [end:follow]

    def add(self, entries):
        """Encode entries once for all clients, and wake their tasks."""
        for entry in entries:
            event_id, message = encode(entry)
            if message is None and event_id != "0-0":
                self.report("skipped", f"{event_id} is not an event")
            self.events.append((event_id, message))
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
        """Yield a message for each event after that id, without end.

        A heartbeat after HEARTBEAT_INTERVAL seconds without an event.
        """
        while True:
            updated = self.updated  # before reading, to miss nothing
            new = await self.since(seen)
            for event_id, message in new:
                if message:
                    yield message
                seen = event_id
            if not new:
                try:
                    async with asyncio.timeout(HEARTBEAT_INTERVAL):
                        await updated.wait()
                except TimeoutError:
                    yield json.dumps({"heartbeat": seen})


def encode(entry):
    """Return (id, message) for an entry; None if it is not an event."""
    event_id, fields = entry
    if not is_text(fields.get("text")):
        return event_id, None
    event = {"id": event_id, "text": fields["text"]}
    return event_id, json.dumps(event)
# --8<-- [end:cache]
