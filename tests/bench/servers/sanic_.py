"""Sanic, as its documentation sets it up: one process, uvloop and httptools, no access log."""

import asyncio
import os

from sanic import Sanic, json

app = Sanic("bench")
queues = {}  # {WebSocket: what it has to send}
released = asyncio.Event()


@app.get("/hello")
async def hello(request):
    return json({"status": "done"})


@app.get("/poll")
async def poll(request):
    await released.wait()
    return json({"status": "done"})


@app.get("/stream", ignore_body=False)
async def stream(request):
    response = await request.respond(content_type="text/event-stream")
    await response.send(": held\n\n")
    await released.wait()


@app.websocket("/socket")
async def socket(request, ws):
    async for _ in ws:
        pass


@app.websocket("/subscribe")
async def subscribe(request, ws):
    queues[ws] = queue = asyncio.Queue(100)
    receiving = asyncio.create_task(drop_messages(ws))
    try:
        while True:
            await ws.send(await queue.get())
    finally:
        queues.pop(ws, None)
        receiving.cancel()


async def drop_messages(ws):
    async for _ in ws:
        pass


@app.post("/publish")
async def publish(request):
    message = request.body.decode()
    for ws, queue in list(queues.items()):
        if queue.full():
            del queues[ws]
            ws.end_connection(1013, "too slow")
        else:
            queue.put_nowait(message)
    return json({"subscribers": len(queues)})


if __name__ == "__main__":
    ping = float(os.environ.get("PING", 20))
    app.config.WEBSOCKET_PING_INTERVAL = app.config.WEBSOCKET_PING_TIMEOUT = ping
    app.config.RESPONSE_TIMEOUT = 3600
    app.config.REQUEST_MAX_SIZE = 10_000_000
    app.run("127.0.0.1", int(os.environ["PORT"]), single_process=True, ssl=os.environ.get("CERT"))
