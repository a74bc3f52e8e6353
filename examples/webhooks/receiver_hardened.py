# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2", "sanic==25.12.1"]
# ///
"""The receiver with what production adds: no result is missed.

It orders reports from the job server and receives them as webhooks.
Each event changes the database once, in any order and however often
it arrives. A report whose webhook is overdue is polled.

- Run: `uv run receiver_hardened.py`
- or: `pip install httpx2==2.16.2 sanic==25.12.1
  && python receiver_hardened.py`
- Needs: server_hardened.py, running with
  ALLOWED_NETWORKS=127.0.0.0/8; its address is in URL (default
  http://127.0.0.1:8000)
- Source: Standard Webhooks 1.0.0
"""

import asyncio
import base64
import hmac
import os
import re
import sqlite3
import time
from contextlib import suppress

import httpx2
from sanic import BadRequest, Request, Sanic, Unauthorized, empty, json
from sanic.exceptions import ServiceUnavailable

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8001))
URL = os.environ.get("URL", "http://127.0.0.1:8000")
KEY = os.environ.get("KEY", "alice-key")
# How the job server reaches this receiver.
CALLBACK = os.environ.get("CALLBACK", f"http://{HOST}:{PORT}/webhooks")
FILE = os.environ.get("FILE", "reports.db")
# --8<-- [start:limits]
# More than one while the secret is being replaced.
EXAMPLE = "whsec_ZXhhbXBsZSBzZWNyZXQsIDI0IGJ5dGVz"
SECRETS = os.environ.get("SECRETS", EXAMPLE).split()
MAX_AGE = 300  # seconds
# How long to wait for a webhook before the report is polled.
OVERDUE = float(os.environ.get("OVERDUE", 300))  # seconds
MAX_REPORTS = int(os.environ.get("MAX_REPORTS", 10_000))
# For longer than the server repeats a message: one that comes later
# would count as new.
RETENTION = float(os.environ.get("RETENTION", 14 * 86_400))  # seconds
# --8<-- [end:limits]
# A real receiver has users, and stores only the hashes of their keys.
USER_KEYS = {"report-key"}
WORD = re.compile("[!-~]{1,100}")  # a token or a status
SIGNED = "webhook-id", "webhook-timestamp", "webhook-signature"
# What reading a response raises that is not that of a job server.
INVALID = KeyError, TypeError, ValueError, RecursionError


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


app = Sanic("receiver", request_class=SafeRequest)


def open_store():
    """Return the open file."""
    db = sqlite3.connect(FILE)
    db.row_factory = sqlite3.Row
    db.executescript("""
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = FULL;
        CREATE TABLE IF NOT EXISTS reports (
            token TEXT PRIMARY KEY,
            sequence INTEGER NOT NULL,  -- of the newest event
            status TEXT NOT NULL,
            result INTEGER,
            next_poll REAL NOT NULL);
    """)
    return db


# --8<-- [start:verify]
def is_signed(secret, headers, body):
    """Return whether a message is signed with this secret."""
    message_id, timestamp, signatures = (
        headers.get(name, "").encode(errors="surrogateescape")
        for name in SIGNED
    )
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join([message_id, timestamp, body])
    digest = hmac.digest(key, signed, "sha256")
    expected = b"v1," + base64.b64encode(digest)
    return any(
        hmac.compare_digest(expected, signature)
        for signature in signatures.split()
    )


def verify(headers, body):
    """Reject a message that the server has not sent just now (400)."""
    if not any(is_signed(secret, headers, body) for secret in SECRETS):
        raise BadRequest("the signature is wrong")
    if abs(time.time() - int(headers["webhook-timestamp"])) > MAX_AGE:
        raise BadRequest("the message is too old")
# --8<-- [end:verify]


# --8<-- [start:receive]
@app.post("/webhooks")
async def receive(request):
    """Store an event; respond when it is stored, and not before."""
    verify(request.headers, request.body)
    match request.json:
        case {"type": "receiver.confirm", "data": dict(data)}:
            return json(data)  # yes, we want these messages
        case {"type": "job.started" | "job.done", "data": data}:
            update_report(*parse_event(data))
        case {"type": str(), "data": _}:
            pass  # a type that the server has added
        case _:
            raise BadRequest("the body is not an event")
    return empty()


def parse_event(data):
    """Return (token, sequence, status, result); reject others (400).

    Fields that we do not know are ignored: a server may add some.
    """
    match data:
        case {"token": str(), "sequence": int(), "status": str()}:
            fields = "token", "sequence", "status", "result"
            event = [data.get(name) for name in fields]
            numbers = [is_small(number) for number in event[1::2]]
            words = [WORD.fullmatch(text) for text in event[::2]]
            if all(numbers + words):
                return event
    raise BadRequest("the event has no valid token and status")


def is_small(number):
    """Return whether SQLite can store this: 64 bits, or nothing."""
    return type(number) in {int, type(None)} and (
        -(2**63) <= (number or 0) < 2**63
    )


def update_report(token, sequence, status, result=None):
    """Apply an event, unless it or a newer one has been applied.

    The number makes the id of the message unnecessary: an event that
    is repeated or late changes nothing.
    """
    with app.ctx.db as db:
        changed = db.execute(
            "INSERT INTO reports VALUES"
            " (:token, :sequence, :status, :result, :next_poll)"
            " ON CONFLICT (token) DO UPDATE SET sequence = :sequence,"
            " status = :status, result = :result"
            " WHERE sequence < :sequence",
            {
                "token": token,
                "sequence": sequence,
                "status": status,
                "result": result,
                "next_poll": time.time() + OVERDUE,
            },
        )
    if changed.rowcount:
        print(f"{token} {status} {result or ''}", flush=True)
# --8<-- [end:receive]


# --8<-- [start:order]
@app.post("/reports")
async def order_report(request):
    """Submit a job; the result will be sent to this receiver."""
    check_key(request)
    count = "SELECT count(*) FROM reports"
    if app.ctx.db.execute(count).fetchone()[0] >= MAX_REPORTS:
        later = {"Retry-After": "3600"}
        raise ServiceUnavailable("too many reports", headers=later)
    job = {"seconds": 1.5, "callback": CALLBACK}
    try:
        response = await app.ctx.client.post("/jobs", json=job)
        response.raise_for_status()
        token = response.json()["token"]
    except (httpx2.HTTPError, *INVALID) as error:
        print(f"cannot order a report: {error!r}", flush=True)
        return json({"message": "no job server"}, 502)
    # Its webhook may have been here already.
    update_report(token, 0, "ordered")
    return json({"token": token}, 202)


@app.get("/reports")
async def list_reports(request):
    """Return the newest reports."""
    check_key(request)
    rows = app.ctx.db.execute(
        "SELECT token, status, result FROM reports"
        " ORDER BY next_poll DESC LIMIT 100"
    )
    return json([dict(row) for row in rows])


def check_key(request):
    """Reject a request without the key of a user (401)."""
    if request.token not in USER_KEYS:
        raise Unauthorized("send a valid key", scheme="Bearer")
# --8<-- [end:order]


# --8<-- [start:poll_overdue]
async def poll_overdue(app):
    """Poll the reports whose webhook has not arrived in time.

    A webhook is lost if this receiver was down for longer than the
    server repeats it, or if the server lost its data.
    """
    restarted = True  # perhaps webhooks came meanwhile
    while True:
        try:
            if restarted:
                with app.ctx.db as db:
                    db.execute(
                        "UPDATE reports SET next_poll = 0"
                        " WHERE status IN ('ordered', 'pending')"
                    )
                restarted = False
            delete_old_reports()
            for (token,) in overdue_reports():
                await poll(token)
        except sqlite3.Error as error:
            print(f"cannot use {FILE}: {error}", flush=True)
        await asyncio.sleep(min(OVERDUE, 10))


def delete_old_reports():
    """Delete the reports that ended more than RETENTION ago."""
    with app.ctx.db as db:
        db.execute(
            "DELETE FROM reports WHERE next_poll < ?"
            " AND status NOT IN ('ordered', 'pending')",
            [time.time() - RETENTION],
        )


def overdue_reports():
    """Return the tokens of reports to be polled now."""
    now = time.time()
    return app.ctx.db.execute(
        "SELECT token FROM reports"
        " WHERE status IN ('ordered', 'pending')"
        # The second: the clock has been set back.
        " AND (next_poll < ? OR next_poll > ?) LIMIT 100",
        [now, now + OVERDUE],
    ).fetchall()


async def poll(token):
    """Poll a report, and apply its result if it is done."""
    with app.ctx.db as db:
        db.execute(
            "UPDATE reports SET next_poll = ? WHERE token = ?",
            [time.time() + OVERDUE, token],
        )
    try:
        response = await app.ctx.client.get(f"/jobs/{token}")
        if response.status_code in {404, 410}:
            update_report(token, 2, "lost")
            return
        response.raise_for_status()
        job = response.json() | {"token": token, "sequence": 2}
        event = parse_event(job)
    except (httpx2.HTTPError, BadRequest, *INVALID) as error:
        print(f"cannot poll {token}: {error!r}", flush=True)
        return
    if job["status"] == "done":
        update_report(*event)
# --8<-- [end:poll_overdue]


@app.before_server_start
async def open_all(app):
    app.ctx.db = open_store()
    app.ctx.client = httpx2.AsyncClient(
        base_url=URL, headers={"Authorization": f"Bearer {KEY}"}
    )
    app.ctx.poller = asyncio.create_task(poll_overdue(app))


@app.before_server_stop
async def stop_polling(app):
    app.ctx.poller.cancel()
    with suppress(asyncio.CancelledError):
        await app.ctx.poller
    await app.ctx.client.aclose()


@app.after_server_stop
async def close_store(app):
    """Close the file, which the last requests may still have used."""
    app.ctx.db.close()


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 100_000  # bytes; default 100 MB
    app.run(host=HOST, port=PORT, single_process=True)
