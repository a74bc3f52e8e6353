"""The websockets library, on uvloop, with broadcast(); COMPRESSION=deflate as it is by default."""

import os

import uvloop
from websockets.asyncio.server import broadcast, serve

PING = float(os.environ.get("PING", 20))


async def hold(ws):
    async for message in ws:
        broadcast(server.connections, message)


async def main():
    global server
    async with serve(
        hold,
        "127.0.0.1",
        int(os.environ["PORT"]),
        compression=os.environ.get("COMPRESSION") or None,
        ping_interval=PING,
        ping_timeout=PING,
        max_size=10_000_000,
    ) as server:
        await server.serve_forever()


uvloop.run(main())
