# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""The same job server with the websockets library.

Does nothing but WebSocket: no routes, no HTTP but for refusals.

- Run: `uv run server_websockets.py`
- or: `pip install websockets==17.4 && python server_websockets.py`
- Source: https://websockets.readthedocs.io/en/stable/
"""

import asyncio
import json
import os
import secrets
import signal
from contextlib import suppress

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

jobs: dict[str, asyncio.Task] = {}


async def work(seconds, fail):
    """Stand for whatever is slow: a report, a video, a model."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError("the job was told to fail")
    return 42


# --8<-- [start:socket]
async def socket(ws):
    """Talk with one client until it leaves; its jobs go on."""
    try:
        # When the client leaves, the group ends its pushes as well.
        async with asyncio.TaskGroup() as pushes:
            while True:
                reply, started = answer(await ws.recv())
                await ws.send(json.dumps(reply))
                if started:
                    pushes.create_task(push(ws, started))
    except* ConnectionClosed:
        pass  # how recv says that the client has left


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


# --8<-- [start:main]
def route(connection, request):
    """Refuse another path with 404; None: go on with the handshake."""
    if request.path != "/jobs/socket":
        return connection.respond(404, "this is not /jobs/socket\n")


async def main():
    """Serve until SIGINT or SIGTERM; leave no task behind."""
    port = int(os.environ.get("PORT", 8000))
    async with serve(
        socket,
        "127.0.0.1",
        port,
        process_request=route,
        max_size=10_000,  # bytes a message
    ) as server:
        loop = asyncio.get_running_loop()
        for number in signal.SIGINT, signal.SIGTERM:
            loop.add_signal_handler(number, server.close)
        print(f"server listening on 127.0.0.1:{port}", flush=True)
        await server.wait_closed()
    for task in jobs.values():
        task.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)
# --8<-- [end:main]


if __name__ == "__main__":
    asyncio.run(main())
