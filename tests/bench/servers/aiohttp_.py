"""aiohttp, as its documentation sets it up, on uvloop and without an access log."""

import asyncio
import os

import uvloop
from aiohttp import web

queues = {}  # {WebSocket: what it has to send}
released = asyncio.Event()
PING = float(os.environ.get("PING", 20))


async def hello(request):
    return web.json_response({"status": "done"})


async def poll(request):
    await released.wait()
    return web.json_response({"status": "done"})


async def stream(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b": held\n\n")
    await released.wait()


async def socket(request):
    ws = web.WebSocketResponse(heartbeat=PING, compress=False)
    await ws.prepare(request)
    async for _ in ws:
        pass
    return ws


async def subscribe(request):
    ws = web.WebSocketResponse(heartbeat=PING, compress=False)
    await ws.prepare(request)
    queues[ws] = queue = asyncio.Queue(100)
    sending = asyncio.create_task(send_queued(ws, queue))
    try:
        async for _ in ws:
            pass
    finally:
        queues.pop(ws, None)
        sending.cancel()
    return ws


async def send_queued(ws, queue):
    while True:
        await ws.send_str(await queue.get())


async def publish(request):
    message = await request.text()
    for ws, queue in list(queues.items()):
        if queue.full():
            del queues[ws]
            request.app["closing"] = asyncio.create_task(ws.close(code=1013))
        else:
            queue.put_nowait(message)
    return web.json_response({"subscribers": len(queues)})


async def main():
    app = web.Application(client_max_size=10_000_000)
    app.add_routes([web.get("/hello", hello), web.get("/poll", poll), web.get("/stream", stream)])
    app.add_routes([web.get("/socket", socket), web.get("/subscribe", subscribe)])
    app.add_routes([web.post("/publish", publish)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
    await asyncio.Event().wait()


uvloop.run(main())
