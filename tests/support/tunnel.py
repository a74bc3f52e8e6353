"""A proxy that opens a tunnel for CONNECT (RFC 9110 §9.3.6), as a company's proxy does."""

import socket
import socketserver
import threading
from contextlib import suppress


class Tunnel:
    """`targets` holds where the tunnels were opened to, "host:port" each."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.targets = []
        tunnel = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                target = self.rfile.readline().split()[1].decode()
                while self.rfile.readline().strip():
                    pass
                tunnel.targets.append(target)
                host, _, number = target.rpartition(":")
                with socket.create_connection((host, int(number))) as server:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    back = threading.Thread(target=copy, args=[server, self.connection])
                    back.start()
                    copy(self.connection, server)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def copy(source, target):
    """Copy bytes until the source ends; then end the target."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
