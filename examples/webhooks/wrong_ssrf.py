# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2", "sanic==25.12.1"]
# ///
"""WRONG: it sends a request to any address that a client names.

This is server-side request forgery (SSRF): a client outside reaches
servers inside, and the metadata service of a cloud.

- Run: `uv run wrong_ssrf.py`
- or: `pip install httpx2==2.16.2 sanic==25.12.1
  && python wrong_ssrf.py`
- Try: send "Authorization: Bearer alice-key" (or bob-key); set
  ALLOWED_NETWORKS=127.0.0.0/8 if the receiver is on this machine
- Source: server_hardened.py, which is right
"""

import asyncio
import base64
import fcntl
import hmac
import ipaddress
import os
import random
import secrets
import socket
import sqlite3
import ssl
import sys
import time
from contextlib import suppress
from json import dumps, loads

import httpx2
from sanic import BadRequest, Blueprint, NotFound, Request, Sanic, json
from sanic.exceptions import SanicException, Unauthorized

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
FILE = os.environ.get("FILE", "webhooks.db")

# The delays that Standard Webhooks suggests: three days in all.
RETRY_DELAYS = os.environ.get(
    "RETRY_DELAYS", "5 300 1800 7200 18000 36000 50400 72000 86400"
)
DELAYS = [float(delay) for delay in RETRY_DELAYS.split()]  # seconds
MAX_RETRY_AFTER = 86_400  # seconds
LONGEST_DELAY = 1.2 * max([*DELAYS, MAX_RETRY_AFTER])
STORE_RETRY = 2  # seconds until a failed write is repeated
# Of one attempt, in seconds.
ATTEMPT_TIMEOUT = float(os.environ.get("ATTEMPT_TIMEOUT", 15))
MAX_RECEIVERS = 100  # that are sent a message at the same time
MAX_PER_OWNER = 10  # of these
MAX_RESPONSE = 10_000  # bytes
MAX_URL = 2_000  # characters
MAX_JOBS_PER_OWNER = int(os.environ.get("MAX_JOBS_PER_OWNER", 100))
RETENTION = float(os.environ.get("RETENTION", 7 * 86_400))  # seconds
# Networks that are not global, and allowed all the same.
ALLOWED_NETWORKS = [
    ipaddress.ip_network(network)
    for network in os.environ.get("ALLOWED_NETWORKS", "").split()
]

# A real server looks these up, and generates a secret for each owner.
OWNERS = {"alice-key": "alice", "bob-key": "bob"}
SECRETS = {
    "alice": "whsec_ZXhhbXBsZSBzZWNyZXQsIDI0IGJ5dGVz",
    "bob": "whsec_YW5vdGhlciBzZWNyZXQsIDI0IGJ5dGVz",
}


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


GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
app = Sanic("webhooks", request_class=SafeRequest)
bp = Blueprint("webhooks", strict_slashes=True)


# ===== Store =====


def lock_store():
    """Exclude a second server: it would send each message again."""
    flags = os.O_CREAT | os.O_WRONLY
    lock = os.open(f"{FILE}.lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{FILE} is in use by another server")
    # Held until this process ends.


def open_store():
    """Return the open file."""
    # Nothing else happens while a statement waits for a lock.
    db = sqlite3.connect(FILE, timeout=1)  # seconds
    db.row_factory = sqlite3.Row
    db.executescript("""
        PRAGMA journal_mode = WAL;  -- a commit appends to a file
        PRAGMA synchronous = FULL;  -- and syncs it to the disk
        CREATE TABLE IF NOT EXISTS jobs (
            token TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            seconds REAL NOT NULL,
            callback TEXT,
            result INTEGER,  -- NULL while it is pending
            created REAL NOT NULL);
        CREATE TABLE IF NOT EXISTS messages (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            url TEXT NOT NULL,
            body TEXT NOT NULL,
            status TEXT NOT NULL DEFAULT 'waiting',
            attempts INTEGER NOT NULL DEFAULT 0,
            due REAL NOT NULL,  -- time of the next attempt
            problem TEXT);  -- of the last attempt
        CREATE INDEX IF NOT EXISTS waiting_messages
            ON messages (url, due) WHERE status = 'waiting';
        CREATE TABLE IF NOT EXISTS receivers (  -- that confirmed
            owner TEXT NOT NULL,
            url TEXT NOT NULL,
            PRIMARY KEY (owner, url));
    """)
    return db


def new_message_id():
    """Return the id of a message: each attempt has the same."""
    return f"msg_{secrets.token_urlsafe(16)}"


def add_message(job, event_type, **data):
    """Add a message for a job's receiver to the open transaction."""
    if job["callback"] is None:
        return
    data = {"token": job["token"], **data}
    app.ctx.db.execute(
        "INSERT INTO messages (id, owner, url, body, due)"
        " VALUES (?, ?, ?, ?, ?)",
        [
            new_message_id(),
            job["owner"],
            job["callback"],
            dumps({"type": event_type, "data": data}),
            time.time(),
        ],
    )


# ===== Delivery =====


class ReceiverError(Exception):
    """A message was not delivered; `delay` is the Retry-After."""

    def __init__(self, problem, status=None, delay=0.0):
        super().__init__(problem)
        self.status, self.delay = status, delay


def sign(secret, message_id, timestamp, body):
    """Return the signature of a message: HMAC-SHA256, in base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.{body}".encode()
    digest = hmac.digest(key, signed, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def is_allowed(address, scheme):
    """Return whether a receiver may have this address."""
    if any(address in network for network in ALLOWED_NETWORKS):
        return True
    if address.version == 6 and (
        address not in GLOBAL_UNICAST
        # Both lead to an IPv4 address, which may be a private one.
        or address.sixtofour
        or address.teredo
    ):
        return False
    is_global = address.is_global and not address.is_multicast
    return is_global and scheme == "https"


async def resolve(url):
    """Return the address of a URL's host; refuse one that is private.

    The request goes to this address, and the name is not resolved
    again: the next answer could be a private address (DNS rebinding).
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            url.host, url.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        found = []
    addresses = [ipaddress.ip_address(each[4][0]) for each in found]
    if not addresses:
        raise ReceiverError(f"{url.host} has no address to send to")
    return str(addresses[0])


async def post(owner, url, message_id, body):
    """Make one attempt; return the body of the response."""
    timestamp = str(int(time.time()))
    url = httpx2.URL(url)
    try:
        async with asyncio.timeout(ATTEMPT_TIMEOUT):
            address = await resolve(url)
            request = app.ctx.client.build_request(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers={
                    "Host": url.netloc.decode(),
                    "Accept-Encoding": "identity",
                    "Content-Type": "application/json",
                    "webhook-id": message_id,
                    "webhook-timestamp": timestamp,
                    "webhook-signature": sign(
                        SECRETS[owner], message_id, timestamp, body
                    ),
                },
                # TLS checks the certificate for the name.
                extensions={"sni_hostname": url.host},
            )
            response = await app.ctx.client.send(request, stream=True)
            try:
                return await read_response(response)
            finally:
                await response.aclose()
    except TimeoutError:
        raise ReceiverError("no response in time") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise ReceiverError(repr(error)) from None


def retry_after(response):
    """Return the seconds of the Retry-After, or 0."""
    value = response.headers.get("Retry-After", "")
    if not (value.isascii() and value.isdigit()):
        return 0.0  # a date: the delays are long enough
    return min(float(value), MAX_RETRY_AFTER)


async def read_response(response):
    """Return the beginning of the body of a success.

    Raise ReceiverError for any other status.
    """
    if not response.is_success:  # also a redirect: it is not followed
        raise ReceiverError(
            f"status {response.status_code}",
            response.status_code,
            retry_after(response),
        )
    content = b""
    async for chunk in response.aiter_raw():  # nothing is inflated
        content += chunk
        if len(content) > MAX_RESPONSE:
            break
    return content


async def send_webhook(message):
    """Make one attempt to deliver a message, and store the outcome."""
    attempts, due = message["attempts"] + 1, time.time()
    status, problem = "delivered", None
    try:
        await post(
            message["owner"],
            message["url"],
            message["id"],
            message["body"],
        )
    except ReceiverError as error:
        problem = str(error)
        if attempts > len(DELAYS) or error.status == 410:  # Gone
            status = "dead"
        else:
            status = "waiting"
            # At random, so that failed messages do not meet again.
            delay = DELAYS[attempts - 1] * random.uniform(0.8, 1.2)
            due += max(delay, error.delay)
        print(f"{message['id']} {status}: {problem}", flush=True)
    with app.ctx.db as db:
        db.execute(
            "UPDATE messages SET attempts = ?, due = ?, status = ?,"
            " problem = ? WHERE id = ?",
            [attempts, due, status, problem, message["id"]],
        )


async def deliver_messages(app):
    """Send each message when it is due.

    A receiver gets one message at a time: one that is slow delays no
    other, and one that was down is not flooded when it is back.
    """
    sending = {}  # {URL: owner}

    async def send(message):
        try:
            await send_webhook(message)
        except sqlite3.Error as error:  # it will be sent once more
            print(f"cannot store an outcome: {error}", flush=True)
            await asyncio.sleep(STORE_RETRY)
        finally:
            del sending[message["url"]]
            app.ctx.changed.set()

    async with asyncio.TaskGroup() as tasks:
        while True:
            app.ctx.changed.clear()
            delay = 60
            try:
                messages = next_messages()
            except sqlite3.Error as error:
                print(f"cannot read {FILE}: {error}", flush=True)
                messages, delay = [], STORE_RETRY
            for message in messages:
                owner, owners = message["owner"], list(sending.values())
                if message["url"] in sending:
                    continue
                if wait := time_until(message["due"]):
                    delay = min(delay, wait)
                elif (
                    len(owners) < MAX_RECEIVERS
                    and owners.count(owner) < MAX_PER_OWNER
                ):
                    sending[message["url"]] = owner
                    tasks.create_task(send(message))
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await app.ctx.changed.wait()


def time_until(due):
    """Return how many seconds to wait for this time, or 0."""
    wait = due - time.time()
    # Longer than any delay: the clock has been set back.
    return wait if 0 < wait <= LONGEST_DELAY else 0


def next_messages():
    """Return the message of each receiver that is due first."""
    # SQLite returns the row that has the minimum.
    return app.ctx.db.execute(
        "SELECT *, min(due) FROM messages WHERE status = 'waiting'"
        " GROUP BY url"
    ).fetchall()


# ===== Jobs =====


def parse_job(body):
    """Return (seconds, callback or None); reject others with 400."""
    job = body if isinstance(body, dict) else {}
    seconds, callback = job.get("seconds"), job.get("callback")
    # type() and not isinstance(), because a bool is an int.
    if type(seconds) not in {int, float} or not 0 <= seconds <= 60:
        raise BadRequest('send {"seconds": N}, where N is 0 to 60')
    return seconds, None if callback is None else parse_url(callback)


def parse_url(callback):
    """Return a callback in its normal form; reject others with 400."""
    try:
        url = httpx2.URL(callback)
    except (httpx2.InvalidURL, TypeError, ValueError):
        url = httpx2.URL()
    if (
        url.scheme not in {"http", "https"}
        or not url.host
        or url.userinfo
        or len(str(url)) > MAX_URL
    ):
        raise BadRequest('"callback" is the https URL of a receiver')
    return str(url)


@bp.on_request
async def authenticate(request):
    """Identify the client."""
    request.ctx.owner = OWNERS.get(request.token)
    if request.ctx.owner is None:
        raise Unauthorized("send a valid API key", scheme="Bearer")


@bp.exception(sqlite3.Error)
async def report_store_error(request, error):
    """Respond with 503: a full disk, for example, can be repaired."""
    print(f"cannot use {FILE}: {error}", flush=True)
    error = {"status": 503, "message": "cannot store: try again later"}
    return json(error, 503, {"Retry-After": "10"})


async def confirm(owner, callback):
    """Have a receiver confirm that it wants the owner's messages.

    It echoes a random value of a signed message. Otherwise anyone
    could direct messages at a server that did not order them.
    """
    known = app.ctx.db.execute(
        "SELECT 1 FROM receivers WHERE owner = ? AND url = ?",
        [owner, callback],
    ).fetchone()
    if known:
        return
    challenge = secrets.token_urlsafe(16)
    data = {"challenge": challenge}
    body = dumps({"type": "receiver.confirm", "data": data})
    try:
        echo = await post(owner, callback, new_message_id(), body)
        confirmed = loads(echo) == data
    except ReceiverError as error:
        raise BadRequest(f'cannot use "callback": {error}') from None
    except (RecursionError, ValueError):
        confirmed = False
    if not confirmed:
        raise BadRequest('"callback" did not return the challenge')
    with app.ctx.db as db:
        db.execute(
            "INSERT OR IGNORE INTO receivers VALUES (?, ?)",
            [owner, callback],
        )


async def run_job(job):
    """Do the work; store the result and its message in one commit."""
    # Stand in for slow work: a report, a video, a model.
    await asyncio.sleep(job["seconds"])
    while True:
        try:
            store_result(job, 42)
            break
        except sqlite3.Error as error:
            print(f"cannot store a result: {error}", flush=True)
            await asyncio.sleep(STORE_RETRY)
    app.ctx.changed.set()


def store_result(job, result):
    with app.ctx.db as db:
        db.execute(
            "UPDATE jobs SET result = ? WHERE token = ?",
            [result, job["token"]],
        )
        outcome = {"status": "done", "result": result}
        add_message(job, "job.done", sequence=2, **outcome)


def start_job(job):
    """Run a job in a task of its own."""
    task = asyncio.create_task(run_job(job))
    app.ctx.tasks.add(task)
    task.add_done_callback(app.ctx.tasks.discard)


@bp.post("/jobs")
async def create_job(request):
    """Store a job, start it, and return its token at once."""
    owner = request.ctx.owner
    seconds, callback = parse_job(request.json)
    check_limit(owner)  # before a request to a receiver
    if callback is not None:
        await confirm(owner, callback)
        check_limit(owner)  # others may have come meanwhile
    job = {
        "token": secrets.token_urlsafe(16),  # 128 random bits
        "owner": owner,
        "seconds": seconds,
        "callback": callback,
        "created": time.time(),
    }
    with app.ctx.db as db:
        db.execute(
            "INSERT INTO jobs VALUES"
            " (:token, :owner, :seconds, :callback, NULL, :created)",
            job,
        )
        add_message(job, "job.started", sequence=1, status="pending")
    app.ctx.changed.set()
    start_job(job)
    fields = {"Location": f"/jobs/{job['token']}", "Retry-After": "1"}
    pending = {"token": job["token"], "status": "pending"}
    return json(pending, 202, fields)


def check_limit(owner):
    """Reject a job of an owner who has too many (429)."""
    count = app.ctx.db.execute(
        "SELECT count(*) FROM jobs WHERE owner = ?", [owner]
    ).fetchone()[0]
    if count >= MAX_JOBS_PER_OWNER:
        raise SanicException(
            f"you have {count} jobs: wait until some expire",
            status_code=429,
            quiet=True,  # no traceback: it is the client's error
            headers={"Retry-After": "60"},
        )


@bp.get("/jobs/<token>")
async def get_job(request, token):
    """Return the status of a job to its owner, and its result."""
    job = app.ctx.db.execute(
        "SELECT * FROM jobs WHERE token = ? AND owner = ?",
        [token, request.ctx.owner],
    ).fetchone()
    if job is None:
        raise NotFound("unknown token")
    if job["result"] is None:
        pending = {"token": token, "status": "pending"}
        return json(pending, headers={"Retry-After": "1"})
    return json(
        {"token": token, "status": "done", "result": job["result"]}
    )


@bp.get("/messages")
async def list_dead(request):
    """Return the messages that were given up: the dead letters."""
    rows = app.ctx.db.execute(
        "SELECT id, url, attempts, problem FROM messages"
        " WHERE owner = ? AND status = 'dead' ORDER BY due LIMIT 100",
        [request.ctx.owner],
    )
    return json([dict(row) for row in rows])


@bp.post("/messages/<message_id>/retry")
async def retry(request, message_id):
    """Send a message again that was given up."""
    with app.ctx.db as db:
        changed = db.execute(
            "UPDATE messages"
            " SET status = 'waiting', attempts = 0, due = ?"
            " WHERE id = ? AND owner = ? AND status = 'dead'",
            [time.time(), message_id, request.ctx.owner],
        )
    if changed.rowcount == 0:
        raise NotFound("no dead message has this id")
    app.ctx.changed.set()
    return json({"id": message_id, "status": "waiting"}, 202)


async def expire(app):
    """Delete each minute what is older than RETENTION."""
    while True:
        before = time.time() - RETENTION
        with suppress(sqlite3.Error), app.ctx.db as db:
            db.execute(
                "DELETE FROM messages"
                " WHERE status != 'waiting' AND due < ?",
                [before],
            )
            db.execute(
                "DELETE FROM jobs"
                " WHERE result IS NOT NULL AND created < ?",
                [before],
            )
            # Those of no job confirm again.
            db.execute(
                "DELETE FROM receivers WHERE (owner, url) NOT IN"
                " (SELECT owner, callback FROM jobs"
                " WHERE callback IS NOT NULL)"
            )
        await asyncio.sleep(60)


@app.before_server_start
async def open_all(app):
    """Open the file; continue what an earlier process has left."""
    app.ctx.db = open_store()
    app.ctx.changed = asyncio.Event()
    app.ctx.client = httpx2.AsyncClient(
        # A proxy would resolve the name again.
        trust_env=False,
        verify=ssl.create_default_context(),
        # The pool knows addresses only: a connection that was opened
        # for one name must not carry a request to another.
        limits=httpx2.Limits(
            max_connections=MAX_RECEIVERS, max_keepalive_connections=0
        ),
    )
    app.ctx.tasks = {
        asyncio.create_task(deliver_messages(app)),
        asyncio.create_task(expire(app)),
    }
    pending = "SELECT * FROM jobs WHERE result IS NULL"
    for job in app.ctx.db.execute(pending).fetchall():
        start_job(job)


@app.before_server_stop
async def cancel_jobs(app):
    """Stop all tasks. The next process sends what is waiting."""
    running = [task for task in app.ctx.tasks if task.cancel()]
    await asyncio.gather(*running, return_exceptions=True)
    await app.ctx.client.aclose()


@app.after_server_stop
async def close_store(app):
    """Close the file, which the last requests may still have used."""
    app.ctx.db.close()


if __name__ == "__main__":
    lock_store()
    app.blueprint(bp)
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; default 100 MB
    app.run(host=HOST, port=PORT, single_process=True)
