# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""WRONG: takes the next message for the answer to its question.

Works as long as the server has nothing to say by itself. Then a
push comes first, and every answer is taken for another question's.

- Run: `uv run wrong_next_message.py`
- or: `pip install websockets==17.4 && python wrong_next_message.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: client_duplex.py does it right
"""

import asyncio
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the longer job


# --8<-- [start:ask]
async def ask(socket, question):
    await socket.send(json.dumps(question))
    return json.loads(await socket.recv())  # WRONG: whose is it?
# --8<-- [end:ask]


async def main():
    address = f"{URL}/jobs/socket".replace("http", "ws", 1)
    async with connect(address) as socket:
        jobs = {}
        for name, seconds in ("long", SECONDS), ("short", SECONDS / 4):
            job = {"submit": {"seconds": seconds}}
            answer = await ask(socket, {"id": name} | job)
            jobs[name] = answer["token"]
        await asyncio.sleep(SECONDS / 2)  # busy with something else
        answer = await ask(socket, {"id": 3, "status": jobs["long"]})
        print(f"the long job is {answer['status']}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (KeyError, OSError, ValueError, WebSocketException) as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
