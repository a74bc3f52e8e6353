# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Hold every request until a release, with a thread for each.

- Run: `uv run server_threads.py`
- or: `python server_threads.py`
- Source: server.py, which needs one thread for all
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
HOLD = float(os.environ.get("HOLD", 5))  # seconds

released = threading.Event()


# --8<-- [start:hold]
class Handler(BaseHTTPRequestHandler):
    """Hold /poll until the release, each in its own thread."""

    protocol_version = "HTTP/1.1"
    timeout = 10  # seconds, for the next request to arrive

    def do_GET(self):
        if self.path == "/poll":
            released.wait(HOLD)
        found = self.path in {"/poll", "/held"}
        self.respond(200 if found else 404, b'{"status": "done"}')
    # --8<-- [end:hold]

    def do_POST(self):
        """Release all clients, and those that follow."""
        # What follows on the connection could be an unread body.
        self.close_connection = True
        released.set()
        self.respond(200, b"{}")

    def respond(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Log no requests."""


class Server(ThreadingHTTPServer):
    """End without waiting for the threads."""

    daemon_threads = True
    request_queue_size = 1000  # connections without a thread yet

    def handle_error(self, request, client_address):
        """Print a traceback, unless the client has disconnected."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Server((HOST, PORT), Handler) as server:
        print(f"server listening on {HOST}:{PORT}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
