# /// script
# requires-python = ">=3.11"
# dependencies = ["redis==8.1.0", "sanic==25.12.1"]
# ///
"""WRONG: reads on from `$`, the last id at the time of each read.

Events that are published between two reads are lost.

- Run: `uv run wrong_tail.py`
- or: `pip install redis==8.1.0 sanic==25.12.1 && python wrong_tail.py`
- Needs: Redis 6.2 or later; its address is in REDIS
  (default redis://127.0.0.1:6379)
- Source: Redis Streams,
  https://redis.io/docs/latest/develop/data-types/streams/
"""

import asyncio
import os
import re
from json import dumps

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sanic import BadRequest, Sanic, json
from sanic.exceptions import ServiceUnavailable

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")

app = Sanic("scaling_out")
redis = Redis.from_url(
    REDIS,
    decode_responses=True,
    socket_timeout=None,  # XREAD waits until there is an event
)


# --8<-- [start:publish]
def parse_event(body):
    """Return the text of an event; reject anything else with 400."""
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not text:
        raise BadRequest('send {"text": "…"}')
    if re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", text):
        raise BadRequest("a text has no control characters")
    return text


@app.post("/events")
async def publish(request):
    """Append an event to the log that all gateways read."""
    text = parse_event(request.json)
    event_id = await redis.xadd("events", {"text": text})
    return json({"id": event_id}, status=201)
# --8<-- [end:publish]


# --8<-- [start:stream]
@app.websocket("/events")
async def stream(request, ws):
    """Send the events after the id that the client saw last."""
    seen = request.args.get("after", "$")  # $: those to come
    receiving = asyncio.create_task(receive(ws))
    try:
        while True:
            found = await redis.xread({"events": seen}, block=0)
            for event_id, fields in found[0][1]:
                await ws.send(dumps({"id": event_id, **fields}))
            seen = "$"
    except ResponseError as error:
        await ws.close(1008, str(error))  # it is not an id
    except RedisError:
        await ws.close(1013, "the log is unavailable")
    finally:
        receiving.cancel()
# --8<-- [end:stream]


async def receive(ws):
    """Read what the client sends: an unread message blocks pongs."""
    async for _ in ws:
        pass


@app.exception(RedisError)
async def redis_unavailable(request, error):
    """Respond that the client may retry, at any gateway."""
    again = {"Retry-After": "1"}
    raise ServiceUnavailable("the log is unavailable", headers=again)


@app.after_server_stop
async def close_redis(app):
    """Leave no connection behind."""
    await redis.aclose()


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes
    app.run(host=HOST, port=PORT, single_process=True)
