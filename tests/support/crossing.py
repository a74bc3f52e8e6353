"""Two wires for what goes wrong with kept connections, and for TLS in front of any server."""

import socket
import ssl
import threading

from .hostile import reset


class Wire:
    """Takes connections on `port` to `target`, both on 127.0.0.1, each in a thread."""

    def __init__(self, target, port, wrap=lambda client: client):
        self.port, self._target, self._wrap = port, target, wrap
        self.url = f"http://127.0.0.1:{port}"
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        try:
            client = self._wrap(client)
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        self._open += [client, server]
        self.relay(client, server)

    def relay(self, client, server):
        """Carry the bytes of each side to the other, and its end as well."""
        back = threading.Thread(target=pump, args=[server, client], daemon=True)
        back.start()
        pump(client, server)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            each.close()


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Crossing(Wire):
    """A wire so long that a second request is still on its way when the server closes.

    The first connection is carried so; those after it as they are.
    """

    def __init__(self, target, port):
        self.crossed = threading.Event()
        super().__init__(target, port)

    def relay(self, client, server):
        if self.crossed.is_set():
            super().relay(client, server)
            return
        server.sendall(client.recv(65536))
        client.sendall(server.recv(65536))
        request = client.recv(65536)
        assert server.recv(65536) == b""  # closed: it was idle for too long
        self.crossed.set()
        server.sendall(request)  # arrives at a closed socket
        reset(client)


def secured(target, port, context):
    """Return a wire that takes TLS to a server without TLS."""

    def wrap(client):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(client, server_side=True)

    return Wire(target, port, wrap)


def certified(authority, *names):
    """Return a context for a server with these names, signed by a trustme authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context
