# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Hold requests in a pool of twenty threads, fifteen of them at most.

So do servers that give each request a thread of a pool. The other five
threads respond to requests that are not held.

- Run: `uv run server_threads.py`
- or: `python server_threads.py`
- Try: `curl http://127.0.0.1:8000/held` is held, all else is not
- Source: ThreadPoolExecutor,
  https://docs.python.org/3/library/concurrent.futures.html
"""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = int(os.environ.get("PORT", 8000))
MAX_WAIT = int(os.environ.get("MAX_WAIT", 25))  # seconds
THREADS = 20
free = threading.Semaphore(15)  # threads that may still hold
pool = ThreadPoolExecutor(THREADS)
stopping = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Hold /held until MAX_WAIT; respond to all else at once."""

    timeout = 5  # seconds, for the request to arrive

    def do_GET(self):
        status = 404
        if self.path == "/held":
            status = 503  # too many held requests
            if free.acquire(blocking=False):
                stopping.wait(MAX_WAIT)
                free.release()
                status = 200
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


class PoolServer(HTTPServer):
    """Gives each request to a thread of the pool, if one is free."""

    request_queue_size = 128

    def process_request(self, request, client_address):
        pool.submit(self.respond, request, client_address)

    def respond(self, request, client_address):
        with suppress(OSError):  # the client has disconnected
            self.finish_request(request, client_address)
        self.shutdown_request(request)


if __name__ == "__main__":
    server = PoolServer(("127.0.0.1", PORT), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print(f"server listening on 127.0.0.1:{PORT}", flush=True)
    with suppress(KeyboardInterrupt, SystemExit):
        server.serve_forever()
    server.server_close()
    stopping.set()
    pool.shutdown()
