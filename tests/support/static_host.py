"""A host for static files, as plain as they come."""

from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

MOUNT = "/guide"


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder below a path; anything else is the page 404.html of that folder."""

    def translate_path(self, path):
        if not path.startswith(f"{MOUNT}/"):
            return f"{self.directory}/nothing"
        return super().translate_path(path.removeprefix(MOUNT))

    def send_error(self, code, *_):
        body = Path(self.directory, "404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, *_):
        """Say nothing when a browser closes a connection that it no longer needs."""


@contextmanager
def static_host(folder, port):
    """Serve a folder below /guide/."""
    server = Server(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}{MOUNT}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
