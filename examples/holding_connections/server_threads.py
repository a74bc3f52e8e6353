# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""The same work with a thread for each client.

- Run: `uv run server_threads.py`
- or: `python server_threads.py`
- Source: server.py, which holds them all in one thread
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

released = threading.Event()


# --8<-- [start:hold]
class Handler(BaseHTTPRequestHandler):
    """Holds /poll until the release, in a thread of its own."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/poll":
            released.wait()
        found = self.path == "/poll"
        self.answer(200 if found else 404, b'{"status": "done"}')
    # --8<-- [end:hold]

    def do_POST(self):
        """Answer everyone, from now on at once."""
        released.set()
        self.answer(200, b"{}")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing of each request."""


class Server(ThreadingHTTPServer):
    """Waits for no thread when it ends."""

    daemon_threads = True
    request_queue_size = 1000  # connected, and waiting for a thread


if __name__ == "__main__":
    port = int(os.environ.get("PORT", 8000))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Server(("127.0.0.1", port), Handler) as server:
        print(f"server listening on 127.0.0.1:{port}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
