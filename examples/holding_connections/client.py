# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Many clients in one: each asks, is held, and waits for its answer.

- Run: `uv run client.py`
- or: `python client.py`
- Try: COUNT=5000, after `ulimit -n 6000`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Retry-After, RFC 9110 §10.2.3
"""

import asyncio
import os
import sys
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

URL = os.environ.get("URL", "http://127.0.0.1:8000")
COUNT = int(os.environ.get("COUNT", 500))  # clients
HOLD = float(os.environ.get("HOLD", 1))  # s, then the release
at_once = asyncio.Semaphore(50)  # handshakes, not clients


# --8<-- [start:client]
async def ask(method, path, asked=None):
    """Ask on a connection of our own; return what came of it."""
    address = urlsplit(URL)
    async with at_once:
        reader, writer = await asyncio.open_connection(
            address.hostname, address.port or 80
        )
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
    if asked:
        await asked.wait()
    answer = b""
    try:
        answer = await reader.read()  # to its end
    except ConnectionResetError:
        pass
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    if not answer:
        return "hung up on, with no answer"
    head = answer.decode().partition("\r\n\r\n")[0].splitlines()
    later = [line for line in head if line.startswith("Retry-After")]
    when = ", with Retry-After" if later else ""
    return head[0].removeprefix("HTTP/1.1 ") + when
# --8<-- [end:client]


async def main():
    all_asked = asyncio.Barrier(COUNT + 1)

    async def client():
        return await ask("GET", "/poll", all_asked)

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(client()) for _ in range(COUNT)]
        await all_asked.wait()
        await asyncio.sleep(HOLD)
        released = await ask("POST", "/release")
        print("release:", released)
        if not released.startswith("200"):  # then nobody else hears
            for client in clients:
                client.cancel()
    answers = Counter(
        "held for ever" if client.cancelled() else client.result()
        for client in clients
    )
    for answer, number in answers.most_common():
        print(f"{number} clients: {answer}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except* (OSError, IndexError) as errors:
        sys.exit(f"no answer from {URL}: {errors.exceptions[0]!r}")
    except* KeyboardInterrupt:
        sys.exit(130)
