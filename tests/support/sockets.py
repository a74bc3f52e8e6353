"""What one side of a WebSocket said, and a client that says nothing and reads nothing."""

import socket

from .frames import frames as all_frames

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frames(events, source, connection=1):
    """Return (opcode, payload) for each whole frame that one side of a connection sent."""
    return [
        (frame.opcode, frame.payload)
        for frame in all_frames(events)
        if (frame.source, frame.connection) == (source, connection)
    ]


def closings(events, connection=1):
    """Return {who: code} for the close frames on a connection, in the order in which they went.

    A close frame without a code counts as 1005.
    """
    found = {}
    for frame in all_frames(events):
        if frame.connection == connection and frame.opcode == CLOSE:
            code = int.from_bytes(frame.payload[:2]) if frame.payload else 1005
            found.setdefault(frame.source, code)
    return found


def handshake(port, path):
    """Return the request that opens a WebSocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )


def silent(port, path):
    """Open a WebSocket by hand and return its socket, which nobody reads: a client that hangs."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(handshake(port, path))
    return client
