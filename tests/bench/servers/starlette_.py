"""Starlette on uvicorn, with uvloop and httptools, and without an access log."""

import asyncio
import os

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

queues = {}  # {WebSocket: what it has to send}
released = asyncio.Event()


async def hello(request):
    return JSONResponse({"status": "done"})


async def poll(request):
    await released.wait()
    return JSONResponse({"status": "done"})


async def stream(request):
    return StreamingResponse(events(), media_type="text/event-stream")


async def events():
    yield ": held\n\n"
    await released.wait()


async def socket(ws):
    await ws.accept()
    try:
        while True:
            await ws.receive_text()
    except WebSocketDisconnect:
        pass


async def subscribe(ws):
    await ws.accept()
    queues[ws] = queue = asyncio.Queue(100)
    sending = asyncio.create_task(send_queued(ws, queue))
    try:
        while True:
            await ws.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        queues.pop(ws, None)
        sending.cancel()


async def send_queued(ws, queue):
    while True:
        await ws.send_text(await queue.get())


async def publish(request):
    message = (await request.body()).decode()
    for ws, queue in list(queues.items()):
        if queue.full():
            del queues[ws]
            request.app.state.closing = asyncio.create_task(ws.close(1013))
        else:
            queue.put_nowait(message)
    return JSONResponse({"subscribers": len(queues)})


app = Starlette(
    routes=[
        Route("/hello", hello),
        Route("/poll", poll),
        Route("/stream", stream),
        WebSocketRoute("/socket", socket),
        WebSocketRoute("/subscribe", subscribe),
        Route("/publish", publish, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    ping = float(os.environ.get("PING", 20))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        ws="auto",
        ws_per_message_deflate=False,
        ws_ping_interval=ping,
        ws_ping_timeout=ping,
        access_log=False,
        log_level="warning",
    )
