"""A server with prepared responses, for clients that must cope with them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic


class Canned:
    """Responds with (status, headers, body) in turn, and with the last one from then on.

    A body of another kind than str is sent as JSON; a response may also be a function of the
    request's body. `requests` holds the requests:
    (method, path, headers with names in lower case), `bodies` what came with it, and `times`
    when, in seconds.
    """

    def __init__(self, port, responses):
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.requests, self.bodies, self.times = [], [], []
        canned = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                canned.bodies.append(body)
                canned.times.append(monotonic())
                canned.requests.append((self.command, self.path, headers))
                turn = min(len(canned.requests), len(responses)) - 1
                response = responses[turn]
                status, headers, body = response(body) if callable(response) else response
                content = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 304:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if status != 304:
                    self.wfile.write(content)

            do_GET = do_POST = respond

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
