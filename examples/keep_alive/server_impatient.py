# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""A server that closes each connection on its second request.

It responds to the first request on a connection. It processes the
second, and then closes the connection without a response: a client
sees the same when its request crosses the server's close.

- Run: `uv run server_impatient.py`
- or: `pip install sanic==25.12.1 && python server_impatient.py`
- Source: Closing while a request is in transit, RFC 9112 §9.5
"""

import os

from sanic import Request, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))


# --8<-- [start:SafeRequest]
class SafeRequest(Request):
    """A request that no client can turn into a traceback or a leak."""

    def __init__(self, url_bytes, *args, method, **kwargs):
        # Sanic reports an invalid target by means of a request with
        # the method NONE and the same target, and fails on it again.
        if method == "NONE":
            url_bytes = b"*"
        super().__init__(url_bytes, *args, method=method, **kwargs)
        # No response here depends on Accept, and Sanic responds with
        # 500 to an Accept that it cannot parse.
        self.headers.popall("accept", None)

    async def respond(self, *args, **kwargs):
        # Sanic waits without a limit for the rest of a body that was
        # not read to its end. Close the connection instead.
        if self.stream.request_body:
            self.stream.request_body = None
            self.stream.keep_alive = False
        return await super().respond(*args, **kwargs)
# --8<-- [end:SafeRequest]


app = Sanic("impatient", request_class=SafeRequest)
orders: dict[str, int] = {}  # Idempotency-Key -> order number
order_count = 0


@app.get("/")
async def count_orders(request):
    """Return how many orders were placed."""
    return json({"orders": order_count})


# --8<-- [start:place]
@app.post("/")
async def place_order(request):
    """Place an order, or return the one placed under the same key."""
    global order_count
    key = request.headers.get("Idempotency-Key")
    if key is None or key not in orders:
        order_count += 1
        orders[key] = order_count
    return json({"order": orders[key]}, status=201)
# --8<-- [end:place]


# --8<-- [start:close]
@app.on_response
async def close_on_second_request(request, response):
    """Close the connection instead of sending its second response."""
    if request.conn_info is None:  # it has an invalid target
        return
    connection = request.conn_info.ctx
    connection.requests = getattr(connection, "requests", 0) + 1
    if connection.requests == 2:
        request.transport.close()
# --8<-- [end:close]


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.run(host=HOST, port=PORT, single_process=True)
