# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""WRONG: its lease is as long as the longest job.

If it crashes, no other worker takes its job for a day.

- Run: `uv run wrong_long_lease.py`
- or: `python wrong_long_lease.py`
- Same folder: job_store.py
- Source: worker.py, which is right
"""

import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing import Pipe, Process
from sqlite3 import Error

from job_store import JobStore

FILE = os.environ.get("FILE", "jobs.db")
LEASE = 86_400  # seconds
JOB_TIMEOUT = float(os.environ.get("JOB_TIMEOUT", 600))  # seconds
POLL_INTERVAL = float(os.environ.get("POLL_INTERVAL", 0.2))  # seconds
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def run_job(job, results):
    """Stand in for slow work: a report, a video, a model.

    It may be done twice: pass the token of the job, as an idempotency
    key, to all services that it calls.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: see below
    time.sleep(job["seconds"])
    if job["crash"]:
        os._exit(1)  # out of memory, or a fault in a library
    results.send(42)


def work_on(store, job):
    """Do a job in a process of its own, and extend its lease."""
    results, sender = Pipe(duplex=False)
    process = Process(target=run_job, args=[job, sender])
    process.start()
    end, counted = time.monotonic() + JOB_TIMEOUT, False
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        process.join(LEASE / 3)
        while process.exitcode is None:
            if time.monotonic() > end:
                counted = True
                print("timed out", job["token"], flush=True)
                return
            if not store.extend(job, LEASE):
                print("cancelled", job["token"], flush=True)
                return
            process.join(LEASE / 3)
        if results.poll():
            store.finish(job, results.recv())
            print("done", job["token"], flush=True)
        else:
            counted = True
            print("crashed", job["token"], flush=True)
    finally:  # also when this worker is stopped
        process.kill()
        process.join()
        with suppress(Error):  # its lease will end
            store.release(job, counted)  # unless it has ended


def stop(*_):
    """Stop on SIGTERM as on Ctrl-C: work_on() gives its job back."""
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, stop)
    store = JobStore(FILE)
    try:
        print("waiting for jobs", flush=True)
        while True:
            # No signal between the claim and the try of work_on().
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            job = None
            try:
                if job := store.claim(LEASE):
                    print("started", job["token"], flush=True)
                    work_on(store, job)
            except Error as error:  # a full disk: it can be repaired
                print(f"cannot use {FILE}: {error}", flush=True)
                time.sleep(1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            if job is None:
                time.sleep(POLL_INTERVAL)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C
        store.close()
        sys.exit(130)


if __name__ == "__main__":
    main()
