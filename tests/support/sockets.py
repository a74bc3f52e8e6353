"""The frames that one side of a WebSocket sent, and a client that sends and reads nothing."""

import socket
from functools import partial

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync import client

from .frames import cut, unmask
from .frames import frames as all_frames
from .processes import TIMEOUT

# The library gives up after ten seconds, which a handshake may take on a busy machine.
connect = partial(client.connect, open_timeout=TIMEOUT)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frames(events, source, connection=1):
    """Return (opcode, payload) for each whole frame that one side of a connection sent."""
    return [
        (frame.opcode, frame.payload)
        for frame in all_frames(events)
        if (frame.source, frame.connection) == (source, connection)
    ]


def closings(events, connection=1):
    """Return {side: code} for the close frames on a connection, in the order in which they passed.

    A close frame without a code counts as 1005.
    """
    found = {}
    for frame in all_frames(events):
        if frame.connection == connection and frame.opcode == CLOSE:
            code = int.from_bytes(frame.payload[:2]) if frame.payload else 1005
            found.setdefault(frame.source, code)
    return found


def socket_at(url, **options):
    """Open a WebSocket at /socket of a server."""
    return connect(f"{url.replace('http', 'ws', 1)}/socket", **options)


def expect_cut(cut_url, lasting_url):
    """Fail unless an idle WebSocket at one URL is closed with 1006, and one at the other, which
    was opened before it, still works after that."""
    with socket_at(lasting_url) as lasting, socket_at(cut_url) as cut:
        assert lasting.recv() == cut.recv() == "a"
        with pytest.raises(ConnectionClosed):
            cut.recv()
        assert cut.close_code == 1006
        lasting.send("here?")
        assert lasting.recv() == "a: here?"


def handshake(port, path):
    """Return the request that opens a WebSocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )


def silent(port, path):
    """Open a WebSocket by hand and return its socket, which is never read: a client that hangs."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(handshake(port, path))
    return client


class RawWebSocket:
    """A WebSocket by hand, which sends any frames, valid or not.

    `RawWebSocket(port, path, headers)` opens it, and expects 101.
    """

    def __init__(self, port, path="/", headers=None, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", port))
        request = handshake(port, path)
        for name, value in (headers or {}).items():
            request = request.replace(b"\r\n\r\n", f"\r\n{name}: {value}\r\n\r\n".encode())
        self.socket.sendall(request)
        self._received = b""
        head, self._received = self._read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def _read_until(self, mark):
        data = b""
        while mark not in data:
            more = self.socket.recv(65536)
            assert more, data
            data += more
        return data.split(mark, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *frames):
        """Send frames, made by `frame()`, in one piece."""
        self.socket.sendall(b"".join(frames))

    def frames(self):
        """Yield (opcode, payload) for each frame that the server sends, to the connection's end."""
        while True:
            if whole := next(cut(self._received), None):
                _, fields = whole
                self._received = self._received[len(fields["data"]) :]
                yield fields["opcode"], fields["payload"]
                continue
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return
            if not data:
                return
            self._received += data

    def wait_for(self, opcode, payload):
        """Return once the server has sent this frame; fail if it closes before."""
        for found in self.frames():
            if found == (opcode, payload):
                return
            assert found[0] != CLOSE, found[1]
        raise AssertionError("the connection was lost")

    def close_code(self):
        """Read to the end of the connection; return the code of the server's Close frame.

        1005 stands for a Close frame without a code, 1006 for the lack of one.
        """
        for opcode, payload in self.frames():
            if opcode == CLOSE:
                assert not list(self.frames()), "sent something after Close"
                return int.from_bytes(payload[:2]) if payload else 1005
        return 1006


def frame(opcode, payload=b"", final=True, reserved=0, mask=bytes(4), length_bytes=None):
    """Return one frame as a client sends it; `length_bytes` forces a length of 1, 3 or 9 bytes."""
    size = len(payload)
    length_bytes = length_bytes or (1 if size < 126 else 3 if size < 65536 else 9)
    short = {1: size, 3: 126, 9: 127}[length_bytes]
    head = bytes([final << 7 | reserved << 4 | opcode, (mask is not None) << 7 | short])
    head += size.to_bytes(length_bytes - 1) if length_bytes > 1 else b""
    return head + (mask or b"") + unmask(payload, mask)
