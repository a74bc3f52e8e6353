# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""WRONG: holds each question with a thread, and has twenty of them.

So do servers that give each request a thread of a pool. While all of
them hold, nobody else is answered.

- Run: `uv run wrong_threads.py`
- or: `python wrong_threads.py`
- Source: server.py, which is right
"""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))
pool = ThreadPoolExecutor(20)
stopping = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Answers /held after a wait, and everything else at once."""

    def do_GET(self):
        if self.path == "/held":
            stopping.wait(MAX_WAIT)
        self.send_response(200 if self.path == "/held" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()


# --8<-- [start:pool]
class PoolServer(HTTPServer):
    """Gives each request to a thread of the pool, if one is free."""

    request_queue_size = 128

    def process_request(self, request, client_address):
        pool.submit(self.answer, request, client_address)

    def answer(self, request, client_address):
        self.finish_request(request, client_address)
        self.shutdown_request(request)
# --8<-- [end:pool]


if __name__ == "__main__":
    port = int(os.environ.get("PORT", 8000))
    server = PoolServer(("127.0.0.1", port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print(f"server listening on 127.0.0.1:{port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        stopping.set()
        pool.shutdown()
