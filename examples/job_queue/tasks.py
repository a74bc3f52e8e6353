"""The queue in Redis, for a server and its workers.

A worker takes a job from a stream and acknowledges it once its result
is stored. A job whose worker has crashed is taken again when LEASE has
ended: it must be longer than the longest job.

- Used by: redis_server.py, run_all.py
- Source: consumer groups and pending entries,
  https://redis.io/docs/latest/develop/data-types/streams/
"""

import asyncio
import os

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from taskiq import Context, TaskiqDepends
from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
LEASE = float(os.environ.get("LEASE", 120))  # seconds
RESULT_TTL = int(os.environ.get("RESULT_TTL", 3600))  # seconds
MAX_ATTEMPTS = 3
QUEUE = "jobs"  # the stream, and its consumer group

# Of each connection to Redis.
OPTIONS = {
    # Once: the connection may be older than the last start of Redis.
    "retry": Retry(NoBackoff(), 1),
    "socket_connect_timeout": 2,  # seconds
    "socket_timeout": 5,  # longer than a worker waits for a job
}
redis = Redis.from_url(REDIS, decode_responses=True, **OPTIONS)

# --8<-- [start:broker]
broker = RedisStreamBroker(
    REDIS,
    queue_name=QUEUE,
    consumer_group_name=QUEUE,
    consumer_id="0",  # also jobs that are older than the group
    idle_timeout=int(LEASE * 1000),
    # A worker takes one job at a time. With the defaults it takes a
    # hundred, and the last of them outlast their lease.
    xread_count=1,
    unacknowledged_batch_size=1,
    # Entries stay in the stream when they are acknowledged.
    maxlen=100_000,
    **OPTIONS,
).with_result_backend(
    RedisAsyncResultBackend(
        REDIS,
        result_ex_time=RESULT_TTL,
        # The default is pickle, which runs what it reads.
        serializer=JSONSerializer(),
        prefix_str="result",
        **OPTIONS,
    )
)
# --8<-- [end:broker]

CONTEXT = TaskiqDepends()  # what Taskiq passes: see run_job()


# --8<-- [start:run_job]
@broker.task
async def run_job(seconds, context: Context = CONTEXT):
    """Stand in for slow work: a report, a video, a model.

    It may be done twice: pass the token of the job, as an idempotency
    key, to all services that it calls.
    """
    token = context.message.task_id
    # Taskiq does not count the attempts of a job that crashes.
    attempts = await redis.incr(f"attempts:{token}")
    await redis.expire(f"attempts:{token}", RESULT_TTL)
    if attempts > MAX_ATTEMPTS:
        raise RuntimeError("its worker crashed each time")
    print("started", token, flush=True)
    await asyncio.sleep(seconds)
    print("done", token, flush=True)
    return 42
# --8<-- [end:run_job]


@broker.task
async def wake():
    """Do nothing. See recover() of redis_server.py."""
