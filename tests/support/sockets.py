"""What passed on a WebSocket, read from the bytes that a tap saw; and sockets that do not read."""

import socket
import struct

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frames(events, source, connection=1):
    """Return (opcode, payload) for each whole frame that one side of a connection sent."""
    data = b"".join(
        event.data for event in events if (event.source, event.connection) == (source, connection)
    )
    _, end, data = data.partition(b"\r\n\r\n")
    found = []
    while end and len(data) >= 2:
        opcode, masked, length, at = data[0] & 15, data[1] >> 7, data[1] & 127, 2
        if length > 125:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
        key, at = data[at : at + 4 * masked], at + 4 * masked
        if len(data) < at + length:
            break
        payload = data[at : at + length]
        if masked:
            mask = int.from_bytes((key * (length // 4 + 1))[:length])
            payload = (int.from_bytes(payload) ^ mask).to_bytes(length)
        found.append((opcode, payload))
        data = data[at + length :]
    return found


def closings(events, connection=1):
    """Return {who: code} for the close frames on a connection, in the order in which they went.

    A close frame without a code counts as 1005.
    """
    found = {}
    for number, event in enumerate(events):
        if event.connection != connection or event.source in found:
            continue
        for opcode, payload in frames(events[: number + 1], event.source, connection):
            if opcode == CLOSE:
                found[event.source] = struct.unpack("!H", payload[:2])[0] if payload else 1005
    return found


def silent(port, path):
    """Open a WebSocket by hand and return its socket, which nobody reads: a client that hangs."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    return client
