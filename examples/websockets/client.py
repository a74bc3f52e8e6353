# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets==17.4"]
# ///
"""One socket: hand in a job, and be told when it is done.

- Run: `uv run client.py`
- or: `pip install websockets==17.4 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: https://websockets.readthedocs.io/en/stable/
"""

import asyncio
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidURI,
)

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the job's length


# --8<-- [start:main]
async def main():
    # ws: for http:, and wss: for https:
    address = f"{URL}/jobs/socket".replace("http", "ws", 1)
    async with connect(address) as socket:
        question = {"id": 1, "submit": {"seconds": SECONDS}}
        await socket.send(json.dumps(question))
        token = None
        while True:
            message = json.loads(await socket.recv())
            if "id" in message:  # an answer
                if "error" in message:
                    sys.exit(f"refused: {message['error']}")
                token = message["token"]
                print("answer:", message["status"], flush=True)
            elif message["token"] == token:  # nobody asked
                print("pushed:", message["status"], flush=True)
                return message
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        job = asyncio.run(main())
        if job["status"] != "done":
            sys.exit(f"the job {job['status']}: {job['error']}")
        print(f"the result is {job['result']}; it took one question")
    except InvalidHandshake as error:
        sys.exit(f"{URL} does not answer as a job server: {error}")
    except (ConnectionClosed, OSError) as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (InvalidURI, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not answer as a job server: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
