"""The floor with a task for each connection: asyncio streams, on uvloop."""

import asyncio
import os

import uvloop

RESPONSE = b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"status": "done"}'
released = asyncio.Event()


async def serve(reader, writer):
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        if head.startswith(b"GET /poll"):
            await released.wait()
        writer.write(RESPONSE)
        await writer.drain()


async def main():
    port = int(os.environ["PORT"])
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


uvloop.run(main())
