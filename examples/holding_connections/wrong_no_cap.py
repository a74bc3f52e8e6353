# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""WRONG: holds whoever comes, until the kernel has no file left.

- Run: `uv run wrong_no_cap.py`
- or: `pip install sanic==25.12.1 && python wrong_no_cap.py`
- Try: FILES=300 in front of it, and client.py
- Needs: Linux or macOS, for the limit on open files
- Source: EMFILE, https://man7.org/linux/man-pages/man2/accept.2.html
"""

import asyncio
import os
import resource

from sanic import Blueprint, Sanic, json

FILES = int(os.environ.get("FILES", 10_000))  # open ones, to ask for


def allow(files):
    """Let this process have so many files, or as many as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


allow(FILES)
bp = Blueprint("holding_without_cap")
held = set()  # one future for each client


# --8<-- [start:hold]
async def hold():
    """Wait for the release."""
    waiting = asyncio.get_running_loop().create_future()
    held.add(waiting)
    try:
        await waiting
    finally:  # also if the client left
        held.discard(waiting)


@bp.get("/poll")
async def poll(request):
    """Hold a question."""
    await hold()
    return json({"status": "done"})
# --8<-- [end:hold]


def answer_all():
    """Wake everyone who is held; return how many that were."""
    for waiting in held:
        if not waiting.done():
            waiting.set_result(None)
    return len(held)


@bp.post("/release")
async def release(request):
    """Answer everyone; say how many that were."""
    return json({"released": answer_all()})


@bp.before_server_stop
async def stop(app):
    """Let nobody wait for a server that ends."""
    answer_all()


if __name__ == "__main__":
    app = Sanic("holding_without_cap")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 10_000  # bytes; more is a 413
    app.config.RESPONSE_TIMEOUT = 3600  # s; a hold is no failure here
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
