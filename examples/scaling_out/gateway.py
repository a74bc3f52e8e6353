# /// script
# requires-python = ">=3.11"
# dependencies = ["redis==8.1.0", "sanic==25.12.1"]
# ///
"""A gateway: holds WebSocket connections and nothing that matters.

Any number of gateways deliver the same events, which they read from a
log in Redis. A client can resume at any of them.

- Run: `uv run gateway.py`
- or: `pip install redis==8.1.0 sanic==25.12.1 && python gateway.py`
- Same folder: event_log.py
- Needs: Redis 6.2 or later; its address is in REDIS
  (default redis://127.0.0.1:6379)
- Source: close codes, RFC 6455 §7.4.1
"""

import asyncio
import os
import re

from redis.exceptions import RedisError
from sanic import Sanic, json
from sanic.exceptions import BadRequest, ServiceUnavailable

from event_log import CursorExpired, EventCache, append, connect_redis

# --8<-- [start:settings]
HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
MAX_CONNECTIONS = int(os.environ.get("MAX_CONNECTIONS", 10_000))
MAX_JOBS = int(os.environ.get("MAX_JOBS", 10_000))  # in the queue
PING_INTERVAL = float(os.environ.get("PING_INTERVAL", 20))  # s
PING_TIMEOUT = float(os.environ.get("PING_TIMEOUT", 20))  # s
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # s
# --8<-- [end:settings]

RETRY_AFTER = {"Retry-After": "1"}

app = Sanic("scaling_out")


@app.before_server_start
async def start_reader(app):
    """Start to read the log. Redis may start later."""
    app.ctx.connections = 0
    app.ctx.redis = connect_redis()
    app.ctx.cache = EventCache(app.ctx.redis)
    app.ctx.reader = asyncio.create_task(app.ctx.cache.follow())


# --8<-- [start:publish]
def parse_event(request):
    """Return the text and the idempotency key; reject others by 400."""
    key = request.headers.get("idempotency-key", "")
    if len(key) > 100:
        raise BadRequest("an Idempotency-Key has 1 to 100 characters")
    body = request.json
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not text:
        raise BadRequest('send {"text": "…"}')
    return text, key


@app.post("/events")
async def publish(request):
    """Append an event to the log that all gateways read."""
    text, key = parse_event(request)
    id = await append(request.app.ctx.redis, "events", text, key)
    return json({"id": id}, status=201)


@app.post("/jobs")
async def create_job(request):
    """Append a job to the queue; its result will be an event."""
    text, key = parse_event(request)
    redis = request.app.ctx.redis
    if await redis.xlen("jobs") >= MAX_JOBS:
        raise ServiceUnavailable("too many jobs", headers=RETRY_AFTER)
    # The line above is the limit. Trimming would lose jobs.
    id = await append(redis, "jobs", text, key, 10 * MAX_JOBS)
    return json({"job": id, "status": "pending"}, status=202)
# --8<-- [end:publish]


@app.get("/health")
async def health(request):
    """Respond if this process can. Redis is not checked here.

    If it were, all gateways would be marked down at once.
    """
    return json({"connections": request.app.ctx.connections})


# --8<-- [start:stream]
@app.websocket("/events")
async def stream(request, ws):
    """Send the events after the id that the client saw last."""
    ctx = request.app.ctx
    if not ctx.cache.events or ctx.connections >= MAX_CONNECTIONS:
        await ws.close(1013, "try again later")
        return
    seen = request.args.get("after", ctx.cache.events[-1][0])
    if not re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", seen):
        await ws.close(1008, "after is the id of an event")
        return
    ctx.connections += 1
    receiving = asyncio.create_task(receive(ws))
    try:
        async for message in ctx.cache.after(seen):
            async with asyncio.timeout(SEND_TIMEOUT):
                await ws.send(message)  # waits while buffers are full
    except CursorExpired as error:
        await ws.close(4410, str(error))
    except RedisError:
        await ws.close(1013, "the log is unavailable")
    except TimeoutError:
        # A client that reads nothing would not read a close frame.
        request.transport.abort()
    except asyncio.CancelledError:
        # The client has disconnected, or this gateway is stopping.
        await ws.close(1012, "the gateway restarts")
        raise
    finally:
        receiving.cancel()
        ctx.connections -= 1
# --8<-- [end:stream]


async def receive(ws):
    """Read what the client sends: an unread message blocks pongs."""
    async for _ in ws:
        pass


@app.exception(RedisError)
async def redis_unavailable(request, error):
    """Respond that the client may retry, at any gateway."""
    raise ServiceUnavailable(
        "the log is unavailable", headers=RETRY_AFTER
    )


@app.before_server_stop
async def stop_reader(app):
    """Leave no task and no connection behind."""
    app.ctx.reader.cancel()
    await asyncio.wait([app.ctx.reader])
    await app.ctx.redis.aclose()


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes
    app.config.WEBSOCKET_PING_INTERVAL = PING_INTERVAL
    app.config.WEBSOCKET_PING_TIMEOUT = PING_TIMEOUT
    app.run(host=HOST, port=PORT, single_process=True)
