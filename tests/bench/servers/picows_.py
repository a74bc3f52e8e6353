"""picows, on uvloop: WebSocket listeners in Cython, with pings when idle."""

import os

import uvloop
from picows import WSListener, WSMsgType, ws_create_server

PING = float(os.environ.get("PING", 20))
transports = set()


class Listener(WSListener):
    def on_ws_connected(self, transport):
        transports.add(transport)

    def on_ws_disconnected(self, transport):
        transports.discard(transport)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.TEXT:
            message = frame.get_payload_as_bytes()
            for each in transports:
                each.send(WSMsgType.TEXT, message)


async def main():
    server = await ws_create_server(
        lambda request: Listener(),
        "127.0.0.1",
        int(os.environ["PORT"]),
        enable_auto_ping=True,
        auto_ping_idle_timeout=PING,
        auto_ping_reply_timeout=PING,
    )
    await server.serve_forever()


uvloop.run(main())
