"""A server of plain sockets, for what no library sends."""

import socket
import threading


class Peer:
    """A plain listening socket; `serve` handles each connection in a thread."""

    def __init__(self, serve):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client):
        with client:
            self.serve(client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # shutdown wakes the thread in accept(); close alone would not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def everything(sock):
    return b"".join(iter(lambda: sock.recv(65536), b""))
