# /// script
# requires-python = ">=3.11"
# dependencies = ["redis==8.1.0", "sanic==25.12.1"]
# ///
"""A gateway: any number of these serve the same events.

- Run: `uv run server.py`
- or: `pip install redis==8.1.0 sanic==25.12.1 && python server.py`
- Needs: Redis 6.2 or later; its address is in REDIS
  (default redis://127.0.0.1:6379)
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
from redis.exceptions import RedisError
from sanic import Blueprint, Sanic
from sanic import json as json_response
from sanic.exceptions import BadRequest, ServiceUnavailable

REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
KEEP = int(os.environ.get("KEEP", 100_000))  # events in Redis, about
MEMORY = int(os.environ.get("MEMORY", 1000))  # and in this process
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # s of silence
RETRY = float(os.environ.get("RETRY", 1))  # s, while Redis is away

bp = Blueprint("scaling_out")


# --8<-- [start:log]
class Gone(Exception):
    """The log has no event of that id, so nor what came after it."""


async def page(redis, seen, count=100):
    """Return the events after that id, as far as `count`, from Redis.

    It asks for that event as well: if that is not there any more, what
    came next may be missing, too. Both are known by one command.
    """
    if seen == "0-0":  # all that is kept
        return await redis.xrange("events", count=count)
    found = await redis.xrange("events", min=seen, count=count + 1)
    if not found or found[0][0] != seen:
        raise Gone(f"the log has no event {seen}")
    return found[1:]


class Tail:
    """The newest events, in memory, read once for all clients."""

    def __init__(self, redis):
        self.redis = redis
        self.events = deque(maxlen=MEMORY)  # (id, message)
        self.news = asyncio.Event()

    # --8<-- [start:follow]
    async def follow(self):
        """Read for ever, each time from the last that was read."""
        while True:
            try:
                if not self.events:
                    kept = await self.redis.xrevrange(
                        "events", count=MEMORY
                    )
                    self.add(kept[::-1] or [("0-0", {})])
                last = self.events[-1][0]
                # A wait, no more: what there is, and whether nothing
                # is missing, says the page.
                await self.redis.xread(
                    {"events": last}, count=1, block=1000
                )
                self.add(await page(self.redis, last))
            except Gone:
                self.events.clear()  # begin again with what is there
            except RedisError:
                await asyncio.sleep(RETRY)
    # --8<-- [end:follow]

    def add(self, events):
        """Encode events, once for all, and wake those who wait."""
        for id, fields in events:
            self.events.append((id, json.dumps({"id": id, **fields})))
        if events:
            self.news.set()
            self.news = asyncio.Event()

    async def since(self, seen):
        """Return what came after that id; if need be, from Redis."""
        new = []
        for event in reversed(self.events):
            if event[0] == seen:
                return new[::-1]
            new.append(event)
        return [
            (id, json.dumps({"id": id, **fields}))
            for id, fields in await page(self.redis, seen)
        ]

    async def after(self, seen):
        """Yield the messages after that id, and then those to come."""
        while True:
            news = self.news  # taken first, so that nothing slips by
            new = await self.since(seen)
            for id, message in new:
                yield message
                seen = id
            if not new:
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await news.wait()
                except TimeoutError:
                    yield json.dumps({"heartbeat": seen})
# --8<-- [end:log]


@bp.before_server_start
async def start(app):
    """Begin to read. Redis may come later."""
    pool = BlockingConnectionPool.from_url(
        REDIS,
        max_connections=10,  # however many clients
        decode_responses=True,
        # By itself the library sends a command again when the answer
        # is lost. An event would be there twice.
        retry=Retry(NoBackoff(), 0),
    )
    app.ctx.redis = Redis.from_pool(pool)
    app.ctx.tail = Tail(app.ctx.redis)
    app.ctx.following = asyncio.create_task(app.ctx.tail.follow())


# --8<-- [start:publish]
@bp.post("/events")
async def publish(request):
    """Append an event to the log that all gateways read."""
    match request.json:
        case {"text": str() as text} if text:
            id = await request.app.ctx.redis.xadd(
                "events", {"text": text}, maxlen=KEEP, approximate=True
            )
            return json_response({"id": id}, status=201)
    raise BadRequest('send {"text": "…"}')
# --8<-- [end:publish]


# --8<-- [start:stream]
@bp.websocket("/events")
async def stream(request, ws):
    """Send what came after the id that the client saw, and stay."""
    tail = request.app.ctx.tail
    if not tail.events:
        await ws.close(1013, "the log is away")
        return
    after = request.args.get("after", tail.events[-1][0])
    if not re.fullmatch(r"\d{1,20}-\d{1,20}", after):
        await ws.close(1008, "after is the id of an event")
        return
    receiving = asyncio.create_task(receive(ws))
    try:
        async for message in tail.after(after):
            await ws.send(message)  # waits while buffers are full
    except Gone as gone:
        await ws.close(4410, str(gone))
    except RedisError:
        await ws.close(1013, "the log is away")
    except asyncio.CancelledError:
        # The client is gone already, or else we are about to be.
        await ws.close(1012, "the gateway restarts")
        raise
    finally:
        receiving.cancel()
# --8<-- [end:stream]


async def receive(ws):
    """Read what clients send: a message left unread blocks pongs."""
    async for _ in ws:
        pass


@bp.exception(RedisError)
async def away(request, error):
    """Say that it may be tried again, here or at another gateway."""
    again = {"Retry-After": "1"}
    raise ServiceUnavailable("the log is away", headers=again)


@bp.before_server_stop
async def stop(app):
    """Leave no task and no connection behind."""
    app.ctx.following.cancel()
    await asyncio.wait([app.ctx.following])
    await app.ctx.redis.aclose()


@bp.after_server_stop
async def settle(app):
    """Let what was cancelled, Sanic's pings too, come to its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


if __name__ == "__main__":
    app = Sanic("scaling_out")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
