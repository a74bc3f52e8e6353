# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A job server on one socket: both sides speak when they like.

- Run: `uv run server.py`
- or: `pip install sanic==25.12.1 && python server.py`
- Source: the WebSocket protocol, RFC 6455 §1.2
"""

import asyncio
import json
import os
import secrets
from contextlib import suppress

from sanic import Blueprint, Sanic
from sanic import json as json_response
from sanic.exceptions import SanicException, WebsocketClosed

bp = Blueprint("websockets")
jobs: dict[str, asyncio.Task] = {}


async def work(seconds, fail):
    """Stand for whatever is slow: a report, a video, a model."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError("the job was told to fail")
    return 42


# --8<-- [start:socket]
@bp.websocket("/jobs/socket")
async def socket(request, ws):
    """Talk with one client until it leaves; its jobs go on."""
    try:
        # When the client leaves, the group ends its pushes as well.
        async with asyncio.TaskGroup() as pushes:
            while True:
                reply, started = answer(await ws.recv())
                await ws.send(json.dumps(reply))
                if started:
                    pushes.create_task(push(ws, started))
    except* WebsocketClosed:
        pass  # it left before it had heard everything


async def push(ws, token):
    """Tell the client that a job has ended: nobody asked."""
    await asyncio.wait([jobs[token]])  # unlike await, can't cancel it
    await ws.send(json.dumps(state(token)))
# --8<-- [end:socket]


# --8<-- [start:answer]
def answer(message):
    """Return the reply to a message, and the job that it started."""
    number = None
    try:
        match parse(message):
            case {"id": int() | str() as number, "submit": job}:
                token = submit(*read(job))
                return {"id": number} | state(token), token
            case {"id": int() | str() as number, "status": token}:
                return {"id": number} | state(token), None
            case {"id": int() | str() as number}:
                raise ValueError('send "submit" or "status"')
        raise ValueError('send an "id", a number or a string')
    except ValueError as error:  # the socket stays open
        return {"id": number, "error": str(error)}, None
# --8<-- [end:answer]


def parse(message):
    """Return what a message holds; ValueError says what to send."""
    if isinstance(message, str):  # and not bytes: a binary message
        with suppress(ValueError, RecursionError):
            return json.loads(message)
    raise ValueError("send JSON in a text message")


def read(job):
    """Return (seconds, fail) of a job; ValueError if it is none."""
    match job:
        case {"seconds": bool()}:  # in Python, True is an int
            pass
        case {"seconds": int() | float() as seconds, **rest}:
            fail = rest.get("fail", False)
            if 0 <= seconds <= 60 and isinstance(fail, bool):
                return seconds, fail
    raise ValueError(
        'send {"seconds": 0 to 60}, and "fail": true if it is to fail'
    )


def submit(seconds, fail):
    """Start a job; return its token."""
    token = secrets.token_urlsafe(16)
    jobs[token] = asyncio.create_task(work(seconds, fail))
    return token


# --8<-- [start:state]
def state(token):
    """Return how a job stands now; ValueError if there is none."""
    if not isinstance(token, str) or token not in jobs:
        raise ValueError("send the token of a job: this is none")
    job, answer = jobs[token], {"token": token}
    if not job.done():
        return answer | {"status": "pending"}
    if error := job.exception():
        return answer | {"status": "failed", "error": str(error)}
    return answer | {"status": "done", "result": job.result()}
# --8<-- [end:state]


# --8<-- [start:refuse]
@bp.exception(SanicException)
async def refuse(request, error):
    """Answer a request that opens no WebSocket, and why it did not.

    Sanic's own answer lacks the Upgrade that a 426 must have, and
    logs a traceback.
    """
    return json_response(
        {"status": error.status_code, "message": str(error)},
        status=error.status_code,
        headers={"Upgrade": "websocket"}
        if error.status_code == 426
        else None,
    )
# --8<-- [end:refuse]


@bp.before_server_stop
async def stop(app):
    """Leave no task behind when the server stops."""
    for task in jobs.values():
        task.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)


if __name__ == "__main__":
    app = Sanic("websockets")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes a message
    app.blueprint(bp)
    app.run(port=int(os.environ.get("PORT", 8000)), single_process=True)
