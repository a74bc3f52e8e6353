# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Send requests and receive pushes on one connection, concurrently.

Submits two jobs, polls both while they run, and receives each result
when it is pushed. A response is matched to its request by its id.

- Run: `uv run client_duplex.py`
- or: `pip install websockets==17.4 && python client_duplex.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: https://websockets.readthedocs.io/en/stable/
"""

import asyncio
import itertools
import json
import os
import sys
from collections import defaultdict
from contextlib import suppress

from websockets.asyncio.client import connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidProxy,
    WebSocketException,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the longer job
INTERVAL = float(os.environ.get("INTERVAL", 1))  # between polls


class ProtocolError(Exception):
    """The message is not one of a job server."""


def parse_message(text):
    """Return a message about a job as a dict; raise ProtocolError."""
    with suppress(ValueError, RecursionError):
        match json.loads(text):
            case {"token": str(), "status": str()} as message:
                return message
    raise ProtocolError(f"received {text[:80]!r}")


# --8<-- [start:channel]
class RequestChannel:
    """A connection on which many coroutines wait, each for a message.

    A coroutine waits for the response with an id, or for the push
    with a token. Each has a future, created by whichever comes first,
    the coroutine or the message.
    """

    def __init__(self, ws):
        self.ws = ws
        self.ids = itertools.count(1)
        self.futures = defaultdict(
            asyncio.get_running_loop().create_future
        )

    async def send_request(self, request):
        """Send a request; return its response."""
        request_id = next(self.ids)
        await self.ws.send(json.dumps({"id": request_id} | request))
        return await self.wait_for(request_id)

    async def wait_for(self, key):
        """Wait for the response with an id, or the push of a token."""
        try:
            return await self.futures[key]
        finally:
            del self.futures[key]

    async def receive_messages(self):
        """Hand each message to its future until the connection ends."""
        async for text in self.ws:
            message = parse_message(text)
            key = message.get("id", message["token"])
            if not self.futures[key].done():  # or it is a duplicate
                self.futures[key].set_result(message)
        closed = ConnectionError("the server closed the connection")
        for future in self.futures.values():
            if not future.done():
                future.set_exception(closed)
# --8<-- [end:channel]


# --8<-- [start:poll]
async def poll_until_done(channel, name, seconds):
    """Submit a job, and poll it until its result is pushed."""
    # Deadlines from the start, so that delays do not add up.
    due = asyncio.get_running_loop().time()
    job = {"submit": {"seconds": seconds}}
    response = await channel.send_request(job)
    token = response["token"]
    push = asyncio.create_task(channel.wait_for(token))
    while not push.done():
        print(f"{name}: {response['status']}", flush=True)
        due += INTERVAL
        try:
            async with asyncio.timeout_at(due):
                await asyncio.shield(push)
        except TimeoutError:
            response = await channel.send_request({"status": token})
    job = push.result()
    print(f"{name}: {job['status']} (pushed)", flush=True)
    return job.get("result")


async def run_both(channel):
    """Run two jobs concurrently, then close the connection."""
    results = await asyncio.gather(
        poll_until_done(channel, "long", SECONDS),
        poll_until_done(channel, "short", SECONDS * 0.55),
    )
    await channel.ws.close()
    return results


async def main():
    url = f"{URL}/jobs/socket".replace("http", "ws", 1)
    async with asyncio.timeout(SECONDS + 30), connect(url) as ws:
        channel = RequestChannel(ws)
        # If either fails, gather raises and the connection closes.
        _, results = await asyncio.gather(
            channel.receive_messages(), run_both(channel)
        )
    print(f"results: {results}")
# --8<-- [end:poll]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ImportError, InvalidProxy) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
    except (InvalidHandshake, ProtocolError) as error:
        sys.exit(f"{URL} is not a job server: {error}")
    except (OSError, WebSocketException) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
