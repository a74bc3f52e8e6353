# /// script
# requires-python = ">=3.11"
# dependencies = ["redis==8.1.0", "sanic==25.12.1"]
# ///
"""WRONG: gateways that are joined by Redis Pub/Sub, and keep no log.

An event reaches the gateways that are connected to Redis just then,
and their clients that are there just then. Nobody has it after that.

- Run: `uv run wrong_nolog.py`
- or: `pip install redis==8.1.0 sanic==25.12.1 && python wrong_nolog.py`
- Needs: Redis 6.2 or later; its address is in REDIS
  (default redis://127.0.0.1:6379)
- Source: at-most-once delivery,
  https://redis.io/docs/latest/develop/pubsub/
"""

import asyncio
import json
import os

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sanic import Blueprint, Sanic
from sanic import json as json_response
from sanic.exceptions import BadRequest, ServiceUnavailable

REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
RETRY = float(os.environ.get("RETRY", 1))  # s, while Redis is away

bp = Blueprint("wrong_nolog")


# --8<-- [start:pubsub]
@bp.post("/events")
async def publish(request):
    """Number an event, and say it once to all gateways."""
    redis = request.app.ctx.redis
    match request.json:
        case {"text": str() as text} if text:
            id = f"{await redis.incr('number')}-0"
            message = json.dumps({"id": id, "text": text})
            await redis.publish("events", message)
            return json_response({"id": id}, status=201)
    raise BadRequest('send {"text": "…"}')


async def listen(app):
    """Pass on what is said to the clients that are here."""
    while True:
        try:
            async with app.ctx.redis.pubsub() as pubsub:
                await pubsub.subscribe("events")
                async for said in pubsub.listen():
                    if said["type"] == "message":
                        for queue in app.ctx.clients:
                            queue.put_nowait(said["data"])
        except RedisError:
            await asyncio.sleep(RETRY)


@bp.websocket("/events")
async def stream(request, ws):
    """Send what is said from now on. Whatever `after` says."""
    queue = asyncio.Queue()
    request.app.ctx.clients.add(queue)
    receiving = asyncio.create_task(receive(ws))
    try:
        while True:
            await ws.send(await queue.get())
    finally:
        receiving.cancel()
        request.app.ctx.clients.remove(queue)
# --8<-- [end:pubsub]


async def receive(ws):
    """Read what clients send: a message left unread blocks pongs."""
    async for _ in ws:
        pass


@bp.exception(RedisError)
async def away(request, error):
    """Say that it may be tried again."""
    raise ServiceUnavailable("Redis is away")


@bp.before_server_start
async def start(app):
    """Begin to listen. Redis may come later."""
    app.ctx.clients = set()
    app.ctx.redis = Redis.from_url(REDIS, decode_responses=True)
    app.ctx.listening = asyncio.create_task(listen(app))


@bp.before_server_stop
async def stop(app):
    """Leave no task and no connection behind."""
    app.ctx.listening.cancel()
    await asyncio.wait([app.ctx.listening])
    await app.ctx.redis.aclose()


@bp.after_server_stop
async def settle(app):
    """Let what was cancelled, Sanic's pings too, come to its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


if __name__ == "__main__":
    app = Sanic("wrong_nolog")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
