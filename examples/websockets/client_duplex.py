# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""Ask and be told on one socket, at the same time.

Hands in two jobs at once, asks about them while they run, and is
told of each as it ends. An answer finds its question by its id.

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

from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidURI,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the longer job
INTERVAL = float(os.environ.get("INTERVAL", 1))  # between questions


# --8<-- [start:talk]
class Talk:
    """A socket on which many may wait, each for a message of its own.

    What is waited for is the answer with an id, or the push about a
    token; there is one future for each, made by whoever comes first.
    """

    def __init__(self, socket):
        self.socket = socket
        self.numbers = itertools.count(1)
        self.futures = defaultdict(
            asyncio.get_running_loop().create_future
        )

    async def ask(self, question):
        """Ask; return the answer, whatever comes in between."""
        number = next(self.numbers)
        await self.socket.send(json.dumps({"id": number} | question))
        answer = await self.hear(number)
        if "error" in answer and "status" not in answer:
            raise ValueError(answer["error"])
        return answer

    async def hear(self, key):
        """Wait for the answer to a question, or the end of a job."""
        try:
            return await self.futures[key]
        finally:
            del self.futures[key]

    async def listen(self):
        """Give each message to whom it is for, until all is over."""
        async for text in self.socket:
            message = json.loads(text)
            key = message["id" if "id" in message else "token"]
            if not self.futures[key].done():  # or it has come twice
                self.futures[key].set_result(message)
        closed = ConnectionError("closed by server")
        for future in self.futures.values():
            if not future.done():  # nobody will answer
                future.set_exception(closed)
# --8<-- [end:talk]


# --8<-- [start:follow]
async def follow(talk, name, seconds):
    """Hand in a job, and ask about it until its end is pushed."""
    clock = asyncio.get_running_loop().time
    due = clock()  # from the start, so that delays do not add up
    answer = await talk.ask({"submit": {"seconds": seconds}})
    token = answer["token"]
    ended = asyncio.ensure_future(talk.hear(token))
    while not ended.done():
        print(f"{name}: {answer['status']}", flush=True)
        due += INTERVAL
        await asyncio.wait([ended], timeout=due - clock())
        if not ended.done():
            answer = await talk.ask({"status": token})
    job = ended.result()
    print(f"{name}: {job['status']}, and nobody asked", flush=True)
    return job["result"]


async def both(talk):
    """Follow two jobs at once, and then hang up."""
    results = await asyncio.gather(
        follow(talk, "long", SECONDS),
        follow(talk, "short", SECONDS * 0.55),
    )
    await talk.socket.close()
    return results


async def main():
    address = f"{URL}/jobs/socket".replace("http", "ws", 1)
    async with connect(address) as socket:
        talk = Talk(socket)
        # Whoever fails ends both: a talk that nobody listens to
        # would wait for ever.
        _, results = await asyncio.gather(talk.listen(), both(talk))
    print(f"the results are {results}")
# --8<-- [end:follow]


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except InvalidHandshake as error:
        sys.exit(f"{URL} does not answer as a job server: {error}")
    except (ConnectionClosed, OSError) as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (InvalidURI, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not answer as a job server: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
