# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""Notifications: topics and inboxes, and a log from which none is lost.

Sent by POST. Received by WebSocket, by server-sent events or by long
polling, all from the same log, which outlives the server.

Who a client is, it says itself, in `user`: put a login in front.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Try: kill it with `kill -9` while clients listen, and start it again
- Source: synchronous, https://www.sqlite.org/pragma.html; Insufficient
  Storage, RFC 4918 §11.5; Prefer and wait, RFC 7240 §4.3
"""

import asyncio
import os
import re
import sqlite3
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from json import dumps, loads

from sanic import BadRequest, Blueprint, Sanic, json
from sanic import text as text_response
from sanic.exceptions import SanicException

LOG = os.environ.get("LOG", "notifications.db")  # the file
KEEP = int(os.environ.get("KEEP", 100_000))  # of them in the log
QUEUE = int(os.environ.get("QUEUE", 100))  # waiting for one client
PING = float(os.environ.get("PING", 20))  # s between pings, and to wait
HEARTBEAT = float(os.environ.get("HEARTBEAT", 15))  # s of silence
SEND_TIMEOUT = float(os.environ.get("SEND_TIMEOUT", 20))  # s
MAX_WAIT = 25  # s that a question is held
PAGE = 100  # read from the log at a time

bp = Blueprint("notifications")


# --8<-- [start:log]
class Log:
    """Numbered notifications in SQLite. Its methods block."""

    def __init__(self, path):
        self.db = sqlite3.connect(path, check_same_thread=False)
        self.db.executescript("""
            PRAGMA journal_mode = WAL;  -- a commit appends to a file
            PRAGMA synchronous = FULL;  -- and that is on the disk
            CREATE TABLE IF NOT EXISTS log (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                channel TEXT NOT NULL,
                text TEXT NOT NULL,
                key TEXT UNIQUE);
            CREATE TABLE IF NOT EXISTS users (
                name TEXT PRIMARY KEY,
                acknowledged INTEGER NOT NULL);
        """)

    def state(self):
        """Return the last number, and what each user acknowledged."""
        last = self.db.execute("SELECT max(id) FROM log").fetchone()[0]
        users = self.db.execute("SELECT name, acknowledged FROM users")
        return last or 0, dict(users)

    def append(self, notes, acknowledged):
        """Store all of these in one commit, or none of them.

        Return for each its id, whether it is new, and whether what is
        stored under its key is the same.
        """
        with self.db:  # commits, or rolls back
            stored = [self.insert(*note) for note in notes]
            self.db.executemany(
                "INSERT OR REPLACE INTO users VALUES (?, ?)",
                acknowledged.items(),
            )
            self.db.execute(
                "DELETE FROM log"
                " WHERE id <= (SELECT max(id) FROM log) - ?",
                [KEEP],
            )
        return stored

    def insert(self, channel, text, key):
        same = self.db.execute(
            "SELECT id, channel = ? AND text = ? FROM log"
            " WHERE key = ?",
            [channel, text, key],
        ).fetchone()
        if same:  # this was sent before
            return same[0], False, bool(same[1])
        cursor = self.db.execute(
            "INSERT INTO log (channel, text, key) VALUES (?, ?, ?)",
            [channel, text, key],
        )
        return cursor.lastrowid, True, True

    def after(self, seen, channels):
        """Return up to PAGE notifications after that number."""
        marks = ", ".join("?" * len(channels))
        return self.db.execute(
            "SELECT id, channel, text FROM log WHERE id > ?"
            f" AND channel IN ({marks}) ORDER BY id LIMIT {PAGE}",
            [seen, *channels],
        ).fetchall()
# --8<-- [end:log]


def message(number, channel, text):
    return dumps({"id": number, "to": channel, "text": text})


# --8<-- [start:hub]
class Hub:
    """Stores what is sent, and hands it to those who listen."""

    def __init__(self):
        self.log = Log(LOG)
        self.thread = ThreadPoolExecutor(1)  # so it has no races
        self.last, self.acknowledged = self.log.state()
        self.unsaved = {}  # acknowledged, and not in the log yet
        self.waiting = asyncio.Queue()
        self.listeners = defaultdict(set)  # to each channel
        self.stopping = False
        self.task = asyncio.create_task(self.write())

    async def in_thread(self, method, *arguments):
        """Call a method of the log, which blocks, off the loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self.thread, method, *arguments
        )

    # --8<-- [start:write]
    async def publish(self, channel, text, key=None):
        """Return what Log.append does, when it is on the disk."""
        stored = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait(((channel, text, key), stored))
        return await stored

    async def write(self):
        """Store all that waits in one commit, then what came since."""
        while True:
            batch = [await self.waiting.get()]
            while not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            notes = [note for note, _ in batch]
            unsaved, self.unsaved = self.unsaved, {}
            try:
                results = await self.in_thread(
                    self.log.append, notes, unsaved
                )
            except sqlite3.Error as error:
                self.unsaved = unsaved | self.unsaved
                for _, stored in batch:
                    if not stored.done():
                        stored.set_exception(error)
                continue
            for (note, stored), result in zip(
                batch, results, strict=True
            ):
                if result[1]:
                    self.deliver(result[0], *note[:2])
                if not stored.done():  # or else its sender has left
                    stored.set_result(result)

    def deliver(self, number, channel, text):
        """Hand a new notification to all who listen to its channel."""
        self.last = number
        note = number, message(number, channel, text)  # once, for all
        for listener in list(self.listeners.get(channel, ())):
            listener.put(note)
    # --8<-- [end:write]

    async def read(self, seen, channels):
        """Return (number, message) for the next PAGE in the log."""
        rows = await self.in_thread(self.log.after, seen, channels)
        return [(row[0], message(*row)) for row in rows]

    def acknowledge(self, user, number):
        """Note that a user has all up to here.

        It is saved with the next commit. If it is lost before that,
        some come twice: the client checks.
        """
        if number > self.acknowledged.get(user, 0):
            self.acknowledged[user] = self.unsaved[user] = number
# --8<-- [end:hub]


RESTART = 1012, "the server restarts"
SLOW = 1013, "too slow: come back for the rest"


# --8<-- [start:listener]
class Listener:
    """One who listens after a number: to the log first, then live."""

    def __init__(self, hub, channels, seen, hang_up):
        self.hub, self.channels, self.seen = hub, channels, seen
        self.hang_up = hang_up
        self.queue = asyncio.Queue()
        self.behind = True

    def __enter__(self):
        # Before the log is read: what comes meanwhile waits in the
        # queue, and nothing falls between the two.
        for channel in self.channels:
            self.hub.listeners[channel].add(self)
        if self.hub.stopping:
            self.end(*RESTART)
        return self

    def __exit__(self, *_):
        for channel in self.channels:
            self.hub.listeners[channel].discard(self)
            if not self.hub.listeners[channel]:
                del self.hub.listeners[channel]

    def put(self, note):
        """Queue a notification; one who is too slow is let go."""
        if self.queue.qsize() < QUEUE:
            self.queue.put_nowait(note)
        else:
            self.end(*SLOW)

    def end(self, code, reason):
        self.__exit__()
        self.queue.put_nowait(None)
        self.hang_up(code, reason)

    async def next(self, seconds):
        """Return [(number, message), …], what comes next.

        That is [] after so many seconds of silence, and None when it
        is over.
        """
        if self.behind:
            notes = await self.hub.read(self.seen, self.channels)
            self.behind = len(notes) == PAGE
            if notes:
                self.seen = notes[-1][0]
                return notes
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while note := await self.queue.get():
                    if note[0] > self.seen:  # not from the log already
                        self.seen = note[0]
                        return [note]
                return None
        return []
# --8<-- [end:listener]


# --8<-- [start:publish]
NAME = "[a-z0-9-]{1,40}"


@bp.post(f"/<kind:(topics|users)>/<name:({NAME})>")
async def publish(request, kind, name):
    """Store a notification: 201, and it will reach whom it is for.

    Sent again with the same Idempotency-Key it is stored once.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch("[!-~]{1,100}", key):
        raise BadRequest("Idempotency-Key: up to 100 characters")
    try:
        number, new, same = await request.app.ctx.hub.publish(
            f"{kind}/{name}", read_text(request.json), key
        )
    except sqlite3.Error as error:
        raise problem(507, f"not stored: {error}") from None
    if not same:
        raise problem(422, "this key belongs to another notification")
    return json({"id": number}, status=201 if new else 200)


def read_text(body):
    """Return the text of a notification; anything else is 400."""
    match body:
        case {"text": str() as text} if text:
            with suppress(UnicodeEncodeError):  # half a character
                text.encode()
                return text
    raise BadRequest('send {"text": "…"}')


def problem(status, words):
    return SanicException(words, status_code=status, quiet=True)
# --8<-- [end:publish]


# --8<-- [start:begin]
def begin(request):
    """Return who asks, for which channels, and after which number.

    To name a number is to acknowledge it. Who names none goes on after
    the last one acknowledged, or begins with the oldest.
    """
    hub = request.app.ctx.hub
    user = request.args.get("user", "")
    topics = request.args.getlist("topic", [])
    named = [re.fullmatch(NAME, name) for name in [user, *topics]]
    if not all(named) or len(topics) > 20:
        raise BadRequest("user=…&topic=…: up to 40 of a-z, 0-9 and -")
    after = request.args.get("after")
    after = request.headers.get("Last-Event-ID", after)
    oldest = max(0, hub.last - KEEP)
    if after is None:
        seen = hub.acknowledged.get(user, oldest)
    elif re.fullmatch("[0-9]{1,18}", after):
        seen = int(after)
    else:
        raise BadRequest("after is the number of a notification, or 0")
    if not oldest <= seen <= hub.last:
        raise problem(410, f"the log has {oldest + 1} to {hub.last}")
    hub.acknowledge(user, seen)
    channels = {f"users/{user}"} | {f"topics/{name}" for name in topics}
    return user, channels, seen
# --8<-- [end:begin]


# --8<-- [start:socket]
@bp.websocket("/notifications/socket")
async def socket(request, ws):
    """Send notifications; the client says what it has."""
    hub = request.app.ctx.hub
    try:
        user, channels, seen = begin(request)
    except SanicException as error:
        gone = error.status_code == 410
        await ws.close(4410 if gone else 1008, str(error))
        return
    receiving = asyncio.create_task(receive(ws, hub, user))
    try:
        with Listener(hub, channels, seen, ws.end_connection) as me:
            while (notes := await me.next(HEARTBEAT)) is not None:
                beat = 0, dumps({"heartbeat": hub.last})
                for _, text in notes or [beat]:
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await ws.send(text)
    except TimeoutError:  # it does not read at all
        ws.end_connection(*SLOW)
    finally:  # also when the client has left: that cancels us
        receiving.cancel()


async def receive(ws, hub, user):
    """Take acknowledgements."""
    async for text in ws:
        with suppress(ValueError):
            match loads(text):
                case {"ack": int() as number} if number <= hub.last:
                    hub.acknowledge(user, number)
                    continue
        await ws.close(1008, 'send {"ack": number}')
        return
# --8<-- [end:socket]


# --8<-- [start:events]
@bp.get("/notifications/events")
async def events(request):
    """Send notifications as an event stream."""
    _, channels, seen = begin(request)
    stream = await request.respond(
        content_type="text/event-stream",
        headers={
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # nginx: pass it on at once
        },
    )

    def hang_up(code, reason):
        request.transport.abort()

    hub = request.app.ctx.hub
    with Listener(hub, channels, seen, hang_up) as me:
        while (notes := await me.next(HEARTBEAT)) is not None:
            for number, text in notes:
                await stream.send(f"id: {number}\ndata: {text}\n\n")
            if not notes:
                await stream.send(": still here\n\n")
# --8<-- [end:events]


# --8<-- [start:poll]
@bp.get("/notifications")
async def poll(request):
    """Answer with what is new; with Prefer: wait=N, wait for it."""
    _, channels, seen = begin(request)
    asked = re.search(
        r"\bwait=([0-9]{1,9})", request.headers.get("Prefer", "")
    )
    wait = min(MAX_WAIT, int(asked[1])) if asked else 0

    def hang_up(code, reason):
        """Let next() answer, and close: or we are asked again."""
        request.stream.keep_alive = False

    hub = request.app.ctx.hub
    with Listener(hub, channels, seen, hang_up) as me:
        notes = await me.next(wait) or []
    new = ", ".join(text for _, text in notes)
    return text_response(
        f'{{"notifications": [{new}], "after": {me.seen}}}',
        content_type="application/json",
        headers={"Cache-Control": "no-store"}
        | ({"Preference-Applied": f"wait={wait}"} if asked else {}),
    )
# --8<-- [end:poll]


# --8<-- [start:presence]
@bp.get("/presence")
async def presence(request):
    """Say who is here: those to whose inbox somebody listens."""
    channels = request.app.ctx.hub.listeners
    users = [name[6:] for name in channels if name.startswith("users/")]
    return json({"users": sorted(users)})
# --8<-- [end:presence]


# --8<-- [start:life]
@bp.before_server_start
async def start(app):
    app.ctx.hub = Hub()


@bp.after_server_start
async def tell(app):
    """Be the first to have something to say."""
    with suppress(sqlite3.Error):
        await app.ctx.hub.publish("topics/server", "started")


@bp.before_server_stop
async def hang_up(app):
    """Let everyone go, to come back to the next server."""
    app.ctx.hub.stopping = True
    listeners = app.ctx.hub.listeners.values()
    for listener in set().union(*listeners):
        listener.end(*RESTART)


@bp.after_server_stop
async def stop(app):
    """Save what was acknowledged, and leave nothing behind."""
    hub = app.ctx.hub
    hub.task.cancel()
    with suppress(sqlite3.Error):
        await hub.in_thread(hub.log.append, [], hub.unsaved)
    hub.thread.shutdown()
    hub.log.db.close()
    # Sanic's own are left: pings, and messages that came together
    # with the end of a connection, which nobody will read.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=1)
# --8<-- [end:life]


if __name__ == "__main__":
    app = Sanic("notifications")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.WEBSOCKET_PING_INTERVAL = PING
    app.config.WEBSOCKET_PING_TIMEOUT = PING
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
