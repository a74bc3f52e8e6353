# /// script
# requires-python = ">=3.11"
# dependencies = ["redis==8.1.0", "sanic==25.12.1"]
# ///
"""A whole cluster: Redis, gateways, workers, and a proxy before them.

Each is a process of its own, and one that ends is started again: kill
whichever you like. ROLE=gateway or ROLE=worker runs just one of them,
as on a machine of yours. PROXY, GATEWAYS and WORKERS: see below.

- Run: `uv run cluster.py`
- or: `pip install redis==8.1.0 sanic==25.12.1 && python cluster.py`
- Needs: redis-server, and haproxy (or nginx), installed
- Source: consumer groups,
  https://redis.io/docs/latest/develop/data-types/streams/
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import urllib.request
from collections import deque
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from sanic import Blueprint, Sanic
from sanic import json as json_response
from sanic.exceptions import BadRequest, ServiceUnavailable

# --8<-- [start:settings]
ROLE = os.environ.get("ROLE", "cluster")  # or gateway, or worker
PORT = int(os.environ.get("PORT", 8000))
REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
PROXY = os.environ.get("PROXY", "haproxy")  # or nginx
GATEWAYS = int(os.environ.get("GATEWAYS", 2))
WORKERS = int(os.environ.get("WORKERS", 2))

KEEP = int(os.environ.get("KEEP", 100_000))  # events in Redis, about
MEMORY = int(os.environ.get("MEMORY", 1000))  # and in a gateway
MAX_CLIENTS = int(os.environ.get("MAX_CLIENTS", 10_000))  # a gateway
PING = float(os.environ.get("PING", 20))  # s between pings
PONG = float(os.environ.get("PONG", 20))  # s to wait for a pong
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # s of silence
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # s
RETRY = float(os.environ.get("RETRY", 1))  # s, while Redis is away
KEY_LIFE = int(os.environ.get("KEY_LIFE", 3600))  # s a key is known

MAX_JOBS = int(os.environ.get("MAX_JOBS", 10_000))  # that wait
WORK = float(os.environ.get("WORK", 2))  # s that a job takes
IDLE = float(os.environ.get("IDLE", 30))  # s; its worker is dead then
ATTEMPTS = int(os.environ.get("ATTEMPTS", 3))  # at one job
# --8<-- [end:settings]


def connected():
    """Return a client of Redis that never sends a command twice."""
    pool = BlockingConnectionPool.from_url(
        REDIS,
        max_connections=10,  # however many clients
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


# --8<-- [start:once]
# In one step: nothing comes between the question and the answer.
ONCE = """
local id = redis.call('GET', KEYS[2])
if not id then
    id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*',
        'text', ARGV[2])
    redis.call('SET', KEYS[2], id, 'EX', ARGV[3])
end
return id
"""


async def append(redis, stream, text, key, keep):
    """Append to a stream, and return the id.

    The same again, under the same key, is there only once, and has the
    same id: so whoever got no answer may ask again.
    """
    if not key:
        fields = {"text": text}
        return await redis.xadd(stream, fields, maxlen=keep)
    keys = [stream, f"once:{stream}:{key}"]
    return await redis.eval(ONCE, 2, *keys, keep, text, KEY_LIFE)
# --8<-- [end:once]


# The gateway

bp = Blueprint("scaling_out_cluster")


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
    app.ctx.redis = connected()
    app.ctx.tail = Tail(app.ctx.redis)
    app.ctx.following = asyncio.create_task(app.ctx.tail.follow())
    app.ctx.clients = 0


# --8<-- [start:publish]
def asked(request):
    """Return the text and the key, or say what is wrong."""
    key = request.headers.get("idempotency-key", "")
    if len(key) > 100:
        raise BadRequest("the Idempotency-Key is too long")
    match request.json:
        case {"text": str() as text} if text:
            return text, key
    raise BadRequest('send {"text": "…"}')


@bp.post("/events")
async def publish(request):
    """Append an event to the log that all gateways read."""
    text, key = asked(request)
    redis = request.app.ctx.redis
    id = await append(redis, "events", text, key, KEEP)
    return json_response({"id": id}, status=201)


@bp.post("/jobs")
async def submit(request):
    """Put a job into the queue; its end will be an event."""
    text, key = asked(request)
    redis = request.app.ctx.redis
    if await redis.xlen("jobs") >= MAX_JOBS:
        raise ServiceUnavailable("too many jobs wait", headers=AGAIN)
    # Not to be cut short: what bounds this stream is the line above.
    id = await append(redis, "jobs", text, key, 10 * MAX_JOBS)
    return json_response({"job": id, "status": "pending"}, status=202)
# --8<-- [end:publish]


@bp.get("/health")
async def health(request):
    """Answer if this process can; how Redis is, is not asked here.

    If it were, all gateways would be called ill at once.
    """
    return json_response({"clients": request.app.ctx.clients})


# --8<-- [start:stream]
@bp.websocket("/events")
async def stream(request, ws):
    """Send what came after the id that the client saw, and stay."""
    ctx = request.app.ctx
    if not ctx.tail.events or ctx.clients >= MAX_CLIENTS:
        await ws.close(1013, "try again later")
        return
    after = request.args.get("after", ctx.tail.events[-1][0])
    if not re.fullmatch(r"\d{1,20}-\d{1,20}", after):
        await ws.close(1008, "after is the id of an event")
        return
    ctx.clients += 1
    receiving = asyncio.create_task(receive(ws))
    try:
        async for message in ctx.tail.after(after):
            async with asyncio.timeout(SEND_TIMEOUT):
                await ws.send(message)  # waits while buffers are full
    except Gone as gone:
        await ws.close(4410, str(gone))
    except RedisError:
        await ws.close(1013, "the log is away")
    except TimeoutError:
        # The client does not read, and would not read a goodbye.
        request.transport.abort()
    except asyncio.CancelledError:
        # The client is gone already, or else we are about to be.
        await ws.close(1012, "the gateway restarts")
        raise
    finally:
        receiving.cancel()
        ctx.clients -= 1
# --8<-- [end:stream]


async def receive(ws):
    """Read what clients send: a message left unread blocks pongs."""
    async for _ in ws:
        pass


AGAIN = {"Retry-After": "1"}


@bp.exception(RedisError)
async def away(request, error):
    """Say that it may be tried again, here or at another gateway."""
    raise ServiceUnavailable("the log is away", headers=AGAIN)


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


def gateway():
    """Serve clients, until told to stop."""
    app = Sanic("scaling_out_cluster")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_PING_INTERVAL = PING
    app.config.WEBSOCKET_PING_TIMEOUT = PONG
    app.blueprint(bp)
    app.run(port=PORT, single_process=True)


# The worker


# --8<-- [start:work]
async def work():
    """Take one job after the other, until told to stop."""
    stopping = stopped_by_signals()
    redis, name = connected(), f"{socket.gethostname()}-{os.getpid()}"
    print(f"Worker ready: {name}", flush=True)
    while not stopping.is_set():
        try:
            with suppress(ResponseError):  # it is there already
                await redis.xgroup_create(
                    "jobs", "workers", id="0", mkstream=True
                )
            for id, fields in await take(redis, name):
                print(f"took {fields['text']}", flush=True)
                text = await result(redis, id, fields["text"])
                # First the result, under a key; then the end of the
                # job. A worker that dies in between leaves a job to
                # do again, whose result will be the same event.
                await append(redis, "events", text, f"job-{id}", KEEP)
                await redis.xack("jobs", "workers", id)
                await redis.xdel("jobs", id)
                print(f"ended {fields['text']}", flush=True)
        except RedisError:
            await asyncio.sleep(RETRY)
    await redis.aclose()


async def take(redis, name):
    """Return a job that a dead worker left, or a new one, or none."""
    _, left, _ = await redis.xautoclaim(
        "jobs", "workers", name, int(IDLE * 1000), count=1
    )
    if left:
        return left
    new = await redis.xreadgroup(
        "workers", name, {"jobs": ">"}, count=1, block=500
    )
    return new[0][1] if new else []


async def result(redis, id, text):
    """Do the job: here, wait. One that kills workers is given up."""
    taken = await redis.xpending_range("jobs", "workers", id, id, 1)
    if taken and taken[0]["times_delivered"] > ATTEMPTS:
        return f"{text}: given up"
    await asyncio.sleep(WORK)
    return f"{text}: done"
# --8<-- [end:work]


def stopped_by_signals():
    """Return an event that is set by Ctrl-C or SIGTERM."""
    event = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


# The cluster

# --8<-- [start:proxies]
CONFIGURATION = {
    "haproxy": """
global
    master-worker        # so that USR2 reloads
    hard-stop-after 1h   # then an old process lets its clients go
    # How many clients: half of `ulimit -n`, two sockets each.

defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s   # a WebSocket: well above the heartbeat
    retries 3            # connects only, so no POST is sent twice
    option redispatch 1  # each try at another gateway

frontend clients
    bind 127.0.0.1:{port}
    default_backend gateways

backend gateways
    balance leastconn
    option httpchk GET /health
    # One that is dead or frozen: let its clients go, they come back.
    default-server check inter 1s fall 3
    default-server on-marked-down shutdown-sessions
{servers}""",
    "nginx": """
daemon off;
pid nginx.pid;
error_log stderr;
worker_shutdown_timeout 1h;  # then an old worker lets its clients go

events {{
    worker_connections 1000;  # two a client; below `ulimit -n`
}}

http {{
    access_log off;
    client_body_temp_path temp_body;
    proxy_temp_path temp_proxy;
    fastcgi_temp_path temp_fastcgi;
    uwsgi_temp_path temp_uwsgi;
    scgi_temp_path temp_scgi;

    map $http_upgrade $connection_upgrade {{
        default upgrade;
        "" "";
    }}

    upstream gateways {{
        least_conn;
{servers}    }}

    server {{
        listen 127.0.0.1:{port};

        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
            proxy_connect_timeout 2s;
            # Above the heartbeat, below the patience of a client.
            proxy_read_timeout 20s;
        }}
    }}
}}
""",
}
# --8<-- [end:proxies]


def program(name):
    """Return the path of a program; end with one line without it."""
    # Debian keeps servers where the path of a user does not lead.
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    if found := shutil.which(name, path=path):
        return found
    sys.exit(f"{name} is missing: sudo apt-get install {name}")


def free_port():
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def listening(port):
    """Return once somebody takes connections there."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)


# --8<-- [start:cluster]
async def cluster():
    """Start everything, say where, and stop it all at the end."""
    redis, proxy = program("redis-server"), program(PROXY)
    try:
        socket.create_server(("127.0.0.1", PORT)).close()
    except OSError:
        sys.exit(f"port {PORT} is in use: set PORT to another one")
    running = []
    with TemporaryDirectory() as folder:
        beginning = begin(running, folder, redis, proxy)
        starting = asyncio.create_task(beginning)
        stopping = asyncio.create_task(stopped_by_signals().wait())
        both = starting, stopping
        try:
            await asyncio.wait(both, return_when="FIRST_COMPLETED")
            if starting.done():
                starting.result()  # raises what went wrong
                await stopping
        finally:
            # Clients before what they need.
            for task in starting, stopping, *reversed(running):
                task.cancel()
                await asyncio.wait([task])


async def begin(running, folder, redis, proxy):
    """Start one after the other, each when the one before listens."""

    async def part(name, argv, port=0, **variables):
        running.append(asyncio.create_task(keep(name, argv, variables)))
        if port:
            await listening(port)

    port = free_port()
    log = f"redis://127.0.0.1:{port}"
    options = f"--port {port} --bind 127.0.0.1 --dir {folder}"
    # What was answered is on the disk, not in a buffer.
    options += " --appendonly yes --appendfsync always"
    await part("redis", [redis, *options.split()], port)
    itself = [sys.executable, __file__]
    for number in range(1, WORKERS + 1):
        await part(f"worker {number}", itself, ROLE="worker", REDIS=log)
    ports = [free_port() for _ in range(GATEWAYS)]
    for number, port in enumerate(ports, 1):
        place = {"ROLE": "gateway", "REDIS": log, "PORT": port}
        await part(f"gateway {number}", itself, port, **place)
    await part(PROXY, configured(folder, proxy, ports), PORT)
    id = await asyncio.to_thread(first_event)
    print(f"published a first event, {id}")
    url = f"http://127.0.0.1:{PORT}"
    print(f"server listening on {url}  (Ctrl-C stops)", flush=True)


async def keep(name, argv, variables):
    """Run a program, again and again, until this is cancelled."""
    env = os.environ | {k: str(v) for k, v in variables.items()}
    while True:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=env,
            stdout=asyncio.subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for us; we pass it on in turn
        )
        print(f"{name:<10} process {process.pid}", flush=True)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
            raise
        print(f"{name:<10} ended with {code}; again in a second")
        await asyncio.sleep(1)
# --8<-- [end:cluster]


def configured(folder, proxy, ports):
    """Write the configuration of the proxy; return how to start it."""
    if PROXY == "nginx":
        line = "        server 127.0.0.1:{1} {health};\n"
        argv = [proxy, "-p", folder, "-e", "stderr", "-c", "proxy"]
    else:
        line = "    server gateway{0} 127.0.0.1:{1}\n"
        argv = [proxy, "-f", f"{folder}/proxy"]
    health = "max_fails=1 fail_timeout=2s"
    servers = "".join(
        line.format(number, port, health=health)
        for number, port in enumerate(ports, 1)
    )
    text = CONFIGURATION[PROXY].format(port=PORT, servers=servers)
    (Path(folder) / "proxy").write_text(text.lstrip())
    return argv


def first_event():
    """Publish one event as a client would; return its id."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/events",
        json.dumps({"text": "the cluster is up"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["id"]


if __name__ == "__main__":
    if ROLE == "gateway":
        gateway()
    elif ROLE == "worker":
        asyncio.run(work())
    else:
        asyncio.run(cluster())
