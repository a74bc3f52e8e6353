"""The floor: an asyncio.Protocol that reads requests by eye, on uvloop. No framework at all."""

import asyncio
import os

import uvloop

RESPONSE = b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"status": "done"}'


class Floor(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not data.startswith(b"GET /poll"):  # a poll is held
            self.transport.write(RESPONSE)


async def main():
    loop = asyncio.get_running_loop()
    port = int(os.environ["PORT"])
    server = await loop.create_server(Floor, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


uvloop.run(main())
