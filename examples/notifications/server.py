# /// script
# requires-python = ">=3.11"
# dependencies = ["prometheus-client==0.26.0", "sanic==25.12.1"]
# ///
"""Notifications: topics and inboxes, and a log that loses none.

They are published by POST, and received over a WebSocket, as
server-sent events or by long polling: all from one log, which outlives
the server. The file has three parts: the store, which knows nothing of
subscribers; the hub, which knows nothing of HTTP; the transports.

A client names itself, in `user`: put authentication in front.

- Run: `uv run server.py`
- or: `pip install prometheus-client==0.26.0 sanic==25.12.1
  && python server.py`
- Try: kill it with `kill -9` while clients are connected, and start it
  again
- Source: synchronous, https://www.sqlite.org/pragma.html; Insufficient
  Storage, RFC 4918 §11.5; Prefer and wait, RFC 7240 §4.3
"""

import asyncio
import os
import random
import re
import resource
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from json import dumps, loads

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    generate_latest,
)
from sanic import BadRequest, Blueprint, Request, Sanic, json, raw
from sanic import text as text_response
from sanic.exceptions import SanicException, ServiceUnavailable
from sanic.log import logger
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
LOG = os.environ.get("LOG", "notifications.db")  # its path
MAX_EVENTS = int(os.environ.get("MAX_EVENTS", 100_000))  # in the log
MAX_QUEUE = int(os.environ.get("MAX_QUEUE", 100))  # of one subscriber
PING_INTERVAL = float(os.environ.get("PING_INTERVAL", 20))  # seconds
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # seconds
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # seconds
MAX_WAIT = 25  # s; the longest hold of a poll
PAGE_SIZE = 100  # events read from the log at a time
MAX_USERS = int(os.environ.get("MAX_USERS", 100_000))  # remembered

# --8<-- [start:limits]
# Descriptors that subscribers cannot take: those of the log, of
# publishers, and of subscribers that are about to be rejected.
SPARE_FILES = 150
MAX_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
if MAX_FILES == resource.RLIM_INFINITY:
    MAX_FILES = 10_000
MAX_CONNECTIONS = int(
    os.environ.get("MAX_CONNECTIONS", MAX_FILES - SPARE_FILES)
)
# --8<-- [end:limits]

# --8<-- [start:metrics]
CONNECTIONS = Gauge("notifications_connections", "Subscribers, now")
RESUMED = Counter("notifications_resumed", "Subscriptions with an id")
PROBLEMS = Counter(
    "notifications_problems", "See report()", ["problem"]
)


def report(problem, detail):
    """Count a problem, and log it in one line."""
    PROBLEMS.labels(problem).inc()
    logger.warning("%s: %s", problem, detail)
# --8<-- [end:metrics]


# ===== Store =====


# --8<-- [start:store]
class Store:
    """The log in SQLite: events with ids. Its methods block."""

    def __init__(self, path):
        self.db = sqlite3.connect(path, check_same_thread=False)
        self.db.executescript("""
            PRAGMA journal_mode = WAL;  -- a commit appends to a file
            PRAGMA synchronous = FULL;  -- and syncs it to the disk
            CREATE TABLE IF NOT EXISTS log (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                channel TEXT NOT NULL,
                text TEXT NOT NULL,
                key TEXT UNIQUE);
            CREATE INDEX IF NOT EXISTS log_by_channel
                ON log (channel, id);
            CREATE TABLE IF NOT EXISTS users (
                name TEXT PRIMARY KEY,
                acknowledged INTEGER NOT NULL);
        """)
        # In WAL mode, one that reads does not wait for a commit.
        self.reader = sqlite3.connect(path, check_same_thread=False)

    def close(self):
        self.db.close()
        self.reader.close()

    def state(self):
        """Return the last id, and {user: id acknowledged}."""
        log = self.reader.execute("SELECT max(id) FROM log")
        users = self.reader.execute(
            "SELECT name, acknowledged FROM users"
        )
        return log.fetchone()[0] or 0, dict(users)

    def append(self, events, acknowledged):
        """Store all events, (channel, text, key), or none of them.

        One commit stores them with what users acknowledged. Return
        what insert() returned for each.
        """
        with self.db:  # commits, or rolls back
            stored = [self.insert(*event) for event in events]
            self.db.executemany(
                "INSERT OR REPLACE INTO users VALUES (?, ?)",
                acknowledged.items(),
            )
            self.db.execute(
                "DELETE FROM log"
                " WHERE id <= (SELECT max(id) FROM log) - ?",
                [MAX_EVENTS],
            )
        return stored

    def insert(self, channel, text, key):
        """Return (id, whether it is new).

        The id is None if the key belongs to another notification.
        """
        found = self.db.execute(
            "SELECT id, channel, text FROM log WHERE key = ?", [key]
        ).fetchone()
        if found:  # the key is known: a retry has the same text
            same = found[1:] == (channel, text)
            return (found[0] if same else None), False
        cursor = self.db.execute(
            "INSERT INTO log (channel, text, key) VALUES (?, ?, ?)",
            [channel, text, key],
        )
        return cursor.lastrowid, True

    # --8<-- [start:after]
    def after(self, last, channels):
        """Return the next PAGE_SIZE events, (id, channel, text)."""
        # The index has the events of one channel in the order of their
        # ids. SQLite merges these lists, and reads only this page.
        of_channel = (
            "SELECT id, channel, text FROM log"
            " WHERE channel = ? AND id > ?"
        )
        query = " UNION ALL ".join([of_channel] * len(channels))
        return self.reader.execute(
            f"{query} ORDER BY id LIMIT {PAGE_SIZE}",
            [value for name in channels for value in (name, last)],
        ).fetchall()
    # --8<-- [end:after]
# --8<-- [end:store]


# ===== Hub =====

RESTART = 1012, "the server restarts"
TOO_SLOW = 1013, "too slow: reconnect for the rest"


class CursorExpired(Exception):
    """The log has no event with the id after which to resume."""


@dataclass(eq=False)  # each equals only itself
class Subscriber:
    """A queue of (id, message), and how to close the connection."""

    channels: set
    close: Callable  # close(code, reason)
    queue: asyncio.Queue = field(default_factory=asyncio.Queue)


def format_message(event_id, channel, text):
    """Return an event as the JSON that subscribers receive."""
    return dumps({"id": event_id, "to": channel, "text": text})


async def call(thread, method, *arguments):
    """Call a method of the store without blocking the event loop."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(thread, method, *arguments)


# --8<-- [start:hub]
class Hub:
    """Stores events, and delivers them to subscribers."""

    def __init__(self, store):
        self.store = store
        self.writing = ThreadPoolExecutor(1)  # a thread for commits
        self.reading = ThreadPoolExecutor(1)  # one for catching up
        self.last, self.acknowledged = store.state()
        self.new_acks = {}  # {user: id}, not in the store yet
        self.new_events = asyncio.Queue()
        self.subscribers = defaultdict(set)  # of each channel
        self.connections = 0
        self.draining = False
        self.writer = asyncio.create_task(self.write())

    def resume(self, user, after):
        """Return the id after which a user's events begin.

        To name an id is to acknowledge it; 0 is the beginning of the
        log. A user that names none resumes after the last one that is
        acknowledged. Raise CursorExpired if events would be missing.
        """
        oldest = max(0, self.last - MAX_EVENTS)
        if after is None:
            after = self.acknowledged.get(user, 0)
        after = after or oldest
        if not oldest <= after <= self.last:
            raise CursorExpired(
                f"the log has {oldest + 1} to {self.last}"
            )
        self.acknowledge(user, after)
        return after

    def acknowledge(self, user, event_id):
        """Note that a user has all events up to this one.

        The next commit saves it. If it is lost before that, some
        events are sent again, and the client drops them.
        """
        known = self.acknowledged.get(user, 0)
        if not known and len(self.acknowledged) >= MAX_USERS:
            return  # the whole log is sent again, unless it names an id
        if event_id > known:
            self.acknowledged[user] = self.new_acks[user] = event_id

    # --8<-- [start:publish]
    async def publish(self, channel, text, key=None):
        """Store an event; return what Store.insert() returned."""
        stored = asyncio.get_running_loop().create_future()
        self.new_events.put_nowait(((channel, text, key), stored))
        return await stored

    async def write(self):
        """Store all events that wait in one commit, in a loop."""
        while True:
            batch = [await self.new_events.get()]
            while not self.new_events.empty():
                batch.append(self.new_events.get_nowait())
            events = [event for event, _ in batch]
            acks, self.new_acks = self.new_acks, {}
            try:
                results = await call(
                    self.writing, self.store.append, events, acks
                )
            except sqlite3.Error as error:
                self.new_acks = acks | self.new_acks
                for _, stored in batch:
                    if not stored.done():
                        stored.set_exception(error)
                continue
            for ((channel, text, _), stored), (event_id, new) in zip(
                batch, results, strict=True
            ):
                if new:
                    self.deliver(event_id, channel, text)
                if not stored.done():  # or the publisher disconnected
                    stored.set_result((event_id, new))

    def deliver(self, event_id, channel, text):
        """Queue a new event for all subscribers of its channel."""
        self.last = event_id
        # One message, the same for all of them.
        event = event_id, format_message(event_id, channel, text)
        for subscriber in list(self.subscribers.get(channel, ())):
            if subscriber.queue.qsize() < MAX_QUEUE:
                subscriber.queue.put_nowait(event)
            else:
                report("evicted", f"its queue of {channel} is full")
                self.evict(subscriber, *TOO_SLOW)
    # --8<-- [end:publish]

    # --8<-- [start:subscribe]
    @asynccontextmanager
    async def subscribe(self, channels, last, close, silence=HEARTBEAT):
        """Subscribe to channels; yield a generator of pages.

        A page is a list of (id, message) with ids after `last`, first
        from the log and then live. It is empty after `silence` seconds
        without an event. The generator ends when the subscriber is
        evicted; close(code, reason) is called then.
        """
        # Before the log is read: events that are published meanwhile
        # wait in the queue, so none falls between the two.
        subscriber = Subscriber(channels, close)
        self.connections += 1
        CONNECTIONS.inc()
        for channel in channels:
            self.subscribers[channel].add(subscriber)
        if self.draining:
            self.evict(subscriber, *RESTART)
        try:
            async with aclosing(
                self.pages(subscriber, last, silence)
            ) as pages:
                yield pages
        finally:  # also on a disconnect, which cancels the handler
            self.unsubscribe(subscriber)
            self.connections -= 1
            CONNECTIONS.dec()

    async def pages(self, subscriber, last, silence):
        """Yield what follows in the log, then what is queued."""
        while events := await call(
            self.reading, self.store.after, last, subscriber.channels
        ):
            last = events[-1][0]
            yield [(e[0], format_message(*e)) for e in events]
        while True:
            try:
                async with asyncio.timeout(silence):
                    event = await subscriber.queue.get()
            except TimeoutError:
                yield []
                continue
            if event is None:  # evicted
                return
            if event[0] > last:  # or it was in the log
                yield [event]

    def evict(self, subscriber, code, reason):
        """End a subscription, and close its connection."""
        self.unsubscribe(subscriber)
        subscriber.queue.put_nowait(None)
        subscriber.close(code, reason)

    def unsubscribe(self, subscriber):
        for channel in subscriber.channels:
            self.subscribers[channel].discard(subscriber)
            if not self.subscribers[channel]:
                del self.subscribers[channel]
    # --8<-- [end:subscribe]

    def drain(self):
        """Evict all subscribers: they reconnect to the next server."""
        self.draining = True
        for subscriber in set().union(*self.subscribers.values()):
            self.evict(subscriber, *RESTART)

    async def close(self):
        """Save what was acknowledged, and close the store."""
        self.writer.cancel()
        with suppress(sqlite3.Error):
            await call(
                self.writing, self.store.append, [], self.new_acks
            )
        self.writing.shutdown()
        self.reading.shutdown()
        self.store.close()
# --8<-- [end:hub]


# ===== Transports =====

bp = Blueprint("notifications")
NAME = "[a-z0-9-]{1,40}"  # of a user or a topic


# --8<-- [start:reject]
@bp.on_request
async def reject_if_full(request):
    """Respond with 503 to a subscriber for which there is no room.

    This runs before a handshake too. Publishers always get through.
    """
    if not request.path.startswith("/notifications"):
        return
    if request.app.ctx.hub.connections >= MAX_CONNECTIONS:
        report("rejected", "a subscriber, full")
        request.stream.keep_alive = False  # its descriptor is needed
        # Random, so that the clients do not return together.
        retry_after = str(random.randint(5, 15))
        raise ServiceUnavailable(
            "the limit of subscribers is reached",
            headers={"Retry-After": retry_after},
        )
# --8<-- [end:reject]


# --8<-- [start:post]
@bp.post(f"/<kind:(topics|users)>/<name:({NAME})>")
async def publish(request, kind, name):
    """Store a notification: 201, and it will be delivered.

    A retry with the same Idempotency-Key is stored once.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch("[!-~]{1,100}", key):
        raise BadRequest("Idempotency-Key: up to 100 characters")
    try:
        event_id, new = await request.app.ctx.hub.publish(
            f"{kind}/{name}", parse_text(request.json), key
        )
    except sqlite3.Error as error:
        report("store", error)
        raise http_error(507, f"not stored: {error}") from None
    if event_id is None:
        raise http_error(422, "another notification has this key")
    return json({"id": event_id}, status=201 if new else 200)


# --8<-- [start:parse_text]
# A line of text: no control characters, and no half of a character.
TEXT = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def parse_text(body):
    """Return a notification's text; reject any other body (400)."""
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not TEXT.fullmatch(text):
        raise BadRequest('send {"text": "…"}, with one line of text')
    return text
# --8<-- [end:parse_text]


def http_error(status, message):
    return SanicException(message, status_code=status, quiet=True)
# --8<-- [end:post]


# --8<-- [start:parse_subscription]
def parse_subscription(request):
    """Return (user, channels, after); reject any other query (400).

    `after` is the id of the last event that the client has, or None.
    """
    user = request.args.get("user", "")
    topics = request.args.getlist("topic", [])
    valid = [re.fullmatch(NAME, name) for name in [user, *topics]]
    if not all(valid) or len(topics) > 20:
        raise BadRequest("user=…&topic=…: up to 40 of a-z, 0-9 and -")
    after = request.args.get("after")
    after = request.headers.get("Last-Event-ID") or after
    if after is not None and not re.fullmatch("[0-9]{1,18}", after):
        raise BadRequest("after is the id of a notification, or 0")
    if after is not None:
        RESUMED.inc()
    channels = {f"users/{user}"} | {f"topics/{name}" for name in topics}
    return user, channels, None if after is None else int(after)


@bp.exception(CursorExpired)
async def report_expired(request, error):
    report("expired", error)
    return json({"status": 410, "message": str(error)}, status=410)


@bp.exception(sqlite3.Error)
async def report_unreadable(request, error):
    report("store", error)
    message = "the log cannot be read"
    return json({"status": 503, "message": message}, status=503)
# --8<-- [end:parse_subscription]


# --8<-- [start:socket]
@bp.websocket("/notifications/socket")
async def stream_messages(request, ws):
    """Send notifications; receive acknowledgements."""
    hub = request.app.ctx.hub
    try:
        user, channels, after = parse_subscription(request)
        last = hub.resume(user, after)
    except (BadRequest, CursorExpired) as error:
        expired = isinstance(error, CursorExpired)
        if expired:
            report("expired", error)
        await ws.close(4410 if expired else 1008, str(error))
        return
    receiving = asyncio.create_task(receive_acks(ws, hub, user))
    try:
        async with hub.subscribe(
            channels, last, ws.end_connection
        ) as pages:
            async for page in pages:
                if not page:  # nothing for some time: a heartbeat
                    page = [(0, dumps({"heartbeat": hub.last}))]
                for _, message in page:
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await ws.send(message)
    except TimeoutError:  # the client does not read
        report("evicted", f"{user} took no message in time")
        ws.end_connection(*TOO_SLOW)
    except sqlite3.Error as error:
        report("store", error)
        ws.end_connection(1011, "the log cannot be read")
    finally:  # also on a disconnect, which cancels the handler
        receiving.cancel()


async def receive_acks(ws, hub, user):
    """Receive acknowledgements; any other message closes (1008)."""
    async for message in ws:
        event_id = parse_ack(message)
        if event_id is None or not 0 <= event_id <= hub.last:
            await ws.close(1008, 'send {"ack": id}')
            return
        hub.acknowledge(user, event_id)


def parse_ack(message):
    """Return the id that a client acknowledges, or None."""
    with suppress(RecursionError, ValueError):
        match loads(message):
            # type() and not isinstance(), because a bool is an int.
            case {"ack": event_id} if type(event_id) is int:
                return event_id
    return None
# --8<-- [end:socket]


# --8<-- [start:events]
@bp.get("/notifications/events")
async def stream_events(request):
    """Send notifications as an event stream."""
    hub = request.app.ctx.hub
    user, channels, after = parse_subscription(request)
    last = hub.resume(user, after)
    stream = await request.respond(
        content_type="text/event-stream",
        headers={
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",  # nginx: pass it on at once
        },
    )

    def close(code, reason):
        # A client that is too slow would not read an orderly end.
        request.transport.abort()

    async with hub.subscribe(channels, last, close) as pages:
        # At once, so that the client knows that it has subscribed.
        await stream.send(": subscribed\n\n")
        async for page in pages:
            for event_id, message in page:
                event = f"id: {event_id}\ndata: {message}\n\n"
                await stream.send(event)
            if not page:
                await stream.send(": heartbeat\n\n")
# --8<-- [end:events]


# --8<-- [start:poll]
@bp.get("/notifications")
async def poll(request):
    """Return new notifications; with Prefer: wait=N, wait for one."""
    hub = request.app.ctx.hub
    user, channels, after = parse_subscription(request)
    last = hub.resume(user, after)
    prefer = request.headers.get("Prefer", "")
    match = re.search(r"(?i)\bwait\s*=\s*([0-9]{1,9})", prefer)
    wait = min(MAX_WAIT, int(match[1])) if match else 0

    def close(code, reason):
        # The poll ends with a response; the next one must not arrive
        # on this connection.
        request.stream.keep_alive = False

    async with hub.subscribe(channels, last, close, wait) as pages:
        page = await anext(pages, [])
    messages = ", ".join(message for _, message in page)
    last = page[-1][0] if page else last
    return text_response(
        f'{{"notifications": [{messages}], "after": {last}}}',
        content_type="application/json",
        headers={"Cache-Control": "no-store"}
        | ({"Preference-Applied": f"wait={wait}"} if match else {}),
    )
# --8<-- [end:poll]


# --8<-- [start:presence]
@bp.get("/presence")
async def presence(request):
    """Return the users whose inbox has a subscriber."""
    channels = request.app.ctx.hub.subscribers
    users = [
        name.removeprefix("users/")
        for name in channels
        if name.startswith("users/")
    ]
    return json({"users": sorted(users)})
# --8<-- [end:presence]


# --8<-- [start:health]
@bp.get("/health")
async def health(request):
    """Respond with 503 if nothing is stored or delivered any more."""
    hub = request.app.ctx.hub
    if hub.writer.done():
        raise ServiceUnavailable("the writer has ended")
    return json({"connections": hub.connections})


@bp.get("/metrics")
async def metrics(request):
    """Return all counters in the format of Prometheus."""
    return raw(generate_latest(), content_type=CONTENT_TYPE_LATEST)
# --8<-- [end:health]


# --8<-- [start:lifecycle]
@bp.before_server_start
async def open_hub(app):
    app.ctx.hub = Hub(Store(LOG))


@bp.after_server_start
async def announce(app):
    """Publish that the server has started."""
    with suppress(sqlite3.Error):
        await app.ctx.hub.publish("topics/server", "started")


@bp.before_server_stop
async def drain(app):
    app.ctx.hub.drain()


@bp.after_server_stop
async def close_hub(app):
    await app.ctx.hub.close()
# --8<-- [end:lifecycle]


# --8<-- [start:SafeRequest]
class SafeRequest(Request):
    """A request that no client can turn into a traceback or a leak."""

    def __init__(self, url_bytes, *args, method, **kwargs):
        # Sanic reports an invalid target by means of a request with
        # the method NONE and the same target, and fails on it again.
        if method == "NONE":
            url_bytes = b"*"
        super().__init__(url_bytes, *args, method=method, **kwargs)
        # No response here depends on Accept, and Sanic responds with
        # 500 to an Accept that it cannot parse.
        self.headers.popall("accept", None)

    async def respond(self, *args, **kwargs):
        # Sanic waits without a limit for the rest of a body that was
        # not read to its end. Close the connection instead.
        if self.stream.request_body:
            self.stream.request_body = None
            self.stream.keep_alive = False
        return await super().respond(*args, **kwargs)
# --8<-- [end:SafeRequest]


# --8<-- [start:protocol]
class HardenedWebSocketProtocol(WebSocketProtocol):
    """Sanic's WebSocket protocol, with five of its faults repaired.

    Sanic 25.12.1 reads ahead without limit while the handler is busy;
    after invalid UTF-8 it keeps the connection open; it accepts any
    number of fragments in a message; it responds with 500 to an
    invalid header; and it omits headers from a rejected handshake.
    RFC 6455 §4.4, §8.1; RFC 9110 §15.5.22.
    """

    __slots__ = ("read_task",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.read_task = None

    async def websocket_handshake(self, *args):
        """Open the WebSocket, or reject it with the right headers."""
        try:
            ws = await super().websocket_handshake(*args)
        except SanicException as error:
            if error.__context__:  # it could not read the headers
                error.status_code = 400
            error.quiet = error.status_code < 500  # no traceback
            error.headers = {"Sec-WebSocket-Version": "13"}
            if error.status_code == 426:
                error.headers["Upgrade"] = "websocket"
            raise
        ws.can_pause = False  # data_received() pauses instead
        return ws

    def data_received(self, data):
        """Pause reading until the handler has received this data."""
        if self.websocket is None:  # the handshake is still to come
            super().data_received(data)
            return
        self.transport.pause_reading()
        self.read_task = asyncio.create_task(self.process_read(data))

    async def process_read(self, data):
        """Process the frames in `data`, then resume reading."""
        ws, connection = self.websocket, self.websocket.ws_proto
        connection.receive_data(data)
        try:
            await ws.async_data_received(
                connection.data_to_send(), connection.events_received()
            )
        except UnicodeDecodeError:
            ws.fail_connection(1007, "invalid UTF-8")
        else:
            if len(ws.assembler.chunks) > 4096:  # even if all are empty
                ws.fail_connection(1009, "too many fragments")
            elif self.transport:  # None once the connection is lost
                self.transport.resume_reading()

    def connection_lost(self, exc):
        """Cancel the task of the last read."""
        super().connection_lost(exc)
        if self.read_task:
            self.read_task.cancel()
# --8<-- [end:protocol]


if __name__ == "__main__":
    app = Sanic("notifications", request_class=SafeRequest)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; above it, 413
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes; above it, 1009
    app.config.WEBSOCKET_PING_INTERVAL = PING_INTERVAL
    app.config.WEBSOCKET_PING_TIMEOUT = PING_INTERVAL
    app.blueprint(bp)
    app.run(
        host=HOST,
        port=PORT,
        protocol=HardenedWebSocketProtocol,
        single_process=True,
    )
