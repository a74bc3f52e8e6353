"""A queue of jobs in one SQLite file, for a server and its workers.

A job is waiting, running, done, failed or cancelled. A worker that
takes a job has a lease, which it extends while it works. When a lease
ends, its worker has crashed, and the job is taken again.

- Used by: server_hardened.py, worker.py, wrong_long_lease.py,
  wrong_no_extension.py
- Source: RETURNING, https://www.sqlite.org/lang_returning.html
"""

import secrets
import sqlite3
import time
from contextlib import contextmanager

MAX_ATTEMPTS = 3


class Rejected(Exception):
    """A job was not added: there is no room, or the key is taken."""


class JobStore:
    """The queue. Each method is one transaction, and blocks."""

    def __init__(self, path):
        # No implicit transactions: transaction() begins them.
        self.db = sqlite3.connect(path, 30, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.executescript("""
            PRAGMA journal_mode = WAL;  -- a commit appends to a file
            PRAGMA synchronous = FULL;  -- and syncs it to the disk
            CREATE TABLE IF NOT EXISTS jobs (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                token TEXT NOT NULL UNIQUE,
                owner TEXT NOT NULL,
                key TEXT,
                seconds REAL NOT NULL,
                crash INTEGER NOT NULL,
                priority INTEGER NOT NULL,
                status TEXT NOT NULL DEFAULT 'waiting',
                attempts INTEGER NOT NULL DEFAULT 0,
                turn INTEGER,  -- higher for each job that starts
                ended REAL,
                lease TEXT,
                lease_start REAL,  -- by time.monotonic()
                lease_end REAL,
                result INTEGER,
                error TEXT,
                UNIQUE (owner, key));
            CREATE INDEX IF NOT EXISTS jobs_by_owner
                ON jobs (status, owner, priority, number);
            CREATE INDEX IF NOT EXISTS turns ON jobs (turn);
            CREATE INDEX IF NOT EXISTS turns_by_owner
                ON jobs (owner, turn);
        """)

    @contextmanager
    def transaction(self):
        """Exclude other writers; commit at the end, or roll back."""
        self.db.execute("BEGIN IMMEDIATE")
        with self.db:
            yield self.db

    # --8<-- [start:submit]
    def submit(self, owner, key, job, max_queue, max_per_owner):
        """Add a job and return it; raise Rejected if that fails.

        `job`: its seconds, crash and priority. A repeated key returns
        the job that it has started.
        """
        with self.transaction() as db:
            found = db.execute(
                "SELECT * FROM jobs WHERE owner = ? AND key = ?",
                [owner, key],
            ).fetchone()
            if found:
                if any(found[name] != job[name] for name in job):
                    raise Rejected("another job has this key", 422)
                return dict(found)
            waiting = self.waiting()
            if waiting.get(owner, 0) >= max_per_owner:
                raise Rejected("you have too many jobs", 429)
            if sum(waiting.values()) >= max_queue:
                raise Rejected("the queue is full", 503)
            added = db.execute(
                "INSERT INTO jobs"
                " (token, owner, key, seconds, crash, priority)"
                " VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
                [
                    secrets.token_urlsafe(16),  # 128 random bits
                    owner,
                    key,
                    job["seconds"],
                    job["crash"],
                    job["priority"],
                ],
            )
            return dict(added.fetchone())
    # --8<-- [end:submit]

    def get(self, owner, token):
        """Return a job of an owner, or None."""
        found = self.db.execute(
            "SELECT * FROM jobs WHERE owner = ? AND token = ?",
            [owner, token],
        ).fetchone()
        return dict(found) if found else None

    def cancel(self, owner, token):
        """Cancel a job that has not ended; its worker will notice."""
        with self.transaction() as db:
            db.execute(
                "UPDATE jobs SET status = 'cancelled', ended = ?,"
                " lease = NULL WHERE owner = ? AND token = ?"
                " AND status IN ('waiting', 'running')",
                [time.time(), owner, token],
            )

    # --8<-- [start:position]
    def waiting(self):
        """Return {owner: number of waiting jobs}."""
        return dict(
            self.db.execute(
                "SELECT owner, count(*) FROM jobs"
                " WHERE status = 'waiting' GROUP BY owner"
            ).fetchall()
        )

    def position(self, job):
        """Return the place of a waiting job, at the latest.

        Owners take turns: before it come the owner's own jobs ahead of
        it, and at most as many and one of each other owner.
        """
        ahead = self.db.execute(
            "SELECT count(*) FROM jobs WHERE status = 'waiting'"
            " AND owner = :owner AND (priority > :priority"
            " OR priority = :priority AND number < :number)",
            job,
        ).fetchone()[0]
        others = [
            min(count, ahead + 1)
            for owner, count in self.waiting().items()
            if owner != job["owner"]
        ]
        return ahead + sum(others) + 1

    def seconds_for(self, count):
        """Return how long so many jobs take, by the last hundred."""
        jobs, first, last = self.db.execute(
            "SELECT count(*), min(ended), max(ended) FROM (SELECT ended"
            " FROM jobs WHERE ended IS NOT NULL"
            " ORDER BY ended DESC LIMIT 100)"
        ).fetchone()
        each = (last - first) / (jobs - 1) if jobs > 1 else 1
        return count * each
    # --8<-- [end:position]

    # --8<-- [start:claim]
    def claim(self, lease_seconds):
        """Return the next job, leased to the caller, or None.

        The owner comes first whose last job was started first: a
        client with a thousand jobs delays another by one.
        """
        with self.transaction() as db:
            now = time.time()
            # All processes share this clock, and nobody can set it.
            clock = time.monotonic()
            db.execute(
                "UPDATE jobs SET status = 'waiting', lease = NULL"
                " WHERE status = 'running' AND (lease_end < :clock"
                # It starts again when the machine does.
                " OR lease_start > :clock)",
                {"clock": clock},
            )
            db.execute(
                "UPDATE jobs SET status = 'failed', ended = ?,"
                " error = 'it crashed or timed out each time'"
                " WHERE status = 'waiting' AND attempts >= ?",
                [now, MAX_ATTEMPTS],
            )
            claimed = db.execute(
                "UPDATE jobs SET status = 'running',"
                " turn = (SELECT ifnull(max(turn), 0) + 1 FROM jobs),"
                " attempts = attempts + 1, lease = :lease,"
                " lease_start = :clock, lease_end = :end WHERE number ="
                " (SELECT number FROM jobs WHERE status = 'waiting'"
                " AND owner = (SELECT owner FROM jobs AS next"
                " WHERE status = 'waiting' GROUP BY owner"
                " ORDER BY (SELECT max(turn) FROM jobs"
                " WHERE owner = next.owner) NULLS FIRST,"
                " min(number) LIMIT 1)"
                " ORDER BY priority DESC, number LIMIT 1) RETURNING *",
                {
                    "clock": clock,
                    "end": clock + lease_seconds,
                    "lease": secrets.token_urlsafe(16),
                },
            ).fetchone()
            return dict(claimed) if claimed else None
    # --8<-- [end:claim]

    # --8<-- [start:lease]
    def extend(self, job, lease_seconds):
        """Extend a lease; return whether the caller still has it."""
        with self.transaction() as db:
            clock = time.monotonic()
            changed = db.execute(
                "UPDATE jobs SET lease_start = ?, lease_end = ?"
                " WHERE lease = ?",
                [clock, clock + lease_seconds, job["lease"]],
            )
            return changed.rowcount == 1

    def finish(self, job, result=None, error=None):
        """Store a result or error; return whether the lease held.

        Otherwise another worker has the job, and its result counts.
        """
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE jobs SET status = ?, result = ?, error = ?,"
                " ended = ?, lease = NULL WHERE lease = ?",
                [
                    "failed" if error else "done",
                    result,
                    error,
                    time.time(),
                    job["lease"],
                ],
            )
            return changed.rowcount == 1

    def release(self, job, counted=False):
        """Give a job back; `counted`: whether it was an attempt."""
        with self.transaction() as db:
            db.execute(
                "UPDATE jobs SET status = 'waiting', lease = NULL,"
                " attempts = attempts - ? WHERE lease = ?",
                [0 if counted else 1, job["lease"]],
            )
    # --8<-- [end:lease]

    def expire(self, age):
        """Delete jobs that ended more than so many seconds ago."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM jobs WHERE ended < ?", [time.time() - age]
            )

    def close(self):
        self.db.close()
