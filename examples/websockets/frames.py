# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Send and receive every type of frame, with a plain socket.

Submits a job in two fragments with a ping between them, sends longer
requests, and closes the connection.

- Run: `uv run frames.py`
- or: `python frames.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: RFC 6455 §5.2 (framing) and §5.3 (masking)
"""

import base64
import json
import os
import secrets
import socket
import struct
import sys
from urllib.parse import urlsplit

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 0.2))  # the job's length

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NAMES = {0: "continuation", 1: "text", 2: "binary"}
NAMES |= {8: "close", 9: "ping", 10: "pong"}


# --8<-- [start:encode]
def mask(payload, key):
    """Mask or unmask a payload: XOR with the repeated key."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def encode(opcode, payload, final=True):
    """Return a masked frame, as a client must send it."""
    first = final << 7 | opcode
    length, masked = len(payload), 1 << 7
    if length <= 125:
        head = struct.pack("!BB", first, masked | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, masked | 126, length)
    else:
        head = struct.pack("!BBQ", first, masked | 127, length)
    key = secrets.token_bytes(4)  # a new one for each frame
    return head + key + mask(payload, key)
# --8<-- [end:encode]


# --8<-- [start:decode]
def decode(read):
    """Return (opcode, payload, final) of a frame from a server.

    `read(n)` returns the next n bytes.
    """
    first, second = read(2)
    final, opcode = bool(first >> 7), first & 0b1111
    if second >> 7:
        raise ProtocolError("the server masked a frame")
    length = second & 0b1111111
    if length == 126:
        (length,) = struct.unpack("!H", read(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", read(8))
    return opcode, read(length), final
# --8<-- [end:decode]


class ProtocolError(Exception):
    """The server does not follow the protocol."""


class Connection:
    """A WebSocket connection that prints a line for each frame."""

    def __init__(self, plain):
        self.plain = plain
        self.file = plain.makefile("rb")

    def read(self, size):
        data = self.file.read(size)
        if len(data) < size:
            raise ConnectionError("the server closed the connection")
        return data

    def open(self, host, path):
        """Open the connection; handshake.py shows what to check."""
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.plain.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = self.file.readline().decode("latin-1").strip()
        if status.split()[1:2] != ["101"]:
            raise ProtocolError(f"no upgrade: {status}")
        while self.file.readline().strip():
            pass

    def send(self, opcode, payload, final=True):
        frame = encode(opcode, payload, final)
        self.plain.sendall(frame)
        self.log("sent", opcode, payload, final, len(frame))

    def receive(self, *wanted):
        """Return the next message with a wanted opcode.

        A text may be in several frames, with pings between them.
        """
        kind, message = None, b""
        while True:
            opcode, payload, final = decode(self.read)
            head = 2 if len(payload) <= 125 else 4
            size = head + len(payload)
            self.log("received", opcode, payload, final, size)
            if opcode == PING:  # the pong must have its payload
                self.send(PONG, payload)
            if opcode == CLOSE and CLOSE not in wanted:
                self.send(CLOSE, payload[:2])
                raise ConnectionError("the server sent a close frame")
            if opcode in wanted and opcode >= CLOSE:
                return payload
            if opcode < CLOSE:
                kind = kind if opcode == CONTINUATION else opcode
                message += payload
                if final and kind in wanted:
                    return message
                if final:
                    message = b""

    def log(self, direction, opcode, payload, final, size):
        more = "" if final else ", not final"
        print(
            f"{direction:<9}{NAMES.get(opcode, opcode)}{more}:"
            f" {len(payload)} bytes in a frame of {size}",
            flush=True,
        )


# --8<-- [start:main]
def main():
    address = urlsplit(URL)
    server = address.hostname, address.port or 80
    with socket.create_connection(server, timeout=10) as plain:
        ws = Connection(plain)
        ws.open(address.netloc, f"{address.path}/jobs/socket")

        # A message in two frames. Control frames may come between.
        job = {"id": 1, "submit": {"seconds": SECONDS}}
        text = json.dumps(job).encode()
        ws.send(TEXT, text[:10], final=False)
        ws.send(PING, b"alive?")
        ws.send(CONTINUATION, text[10:])
        ws.receive(PONG)
        ws.receive(TEXT)  # pending
        print(ws.receive(TEXT).decode())  # done: pushed

        # The response repeats the id, so a long id makes it long.
        for length in 87, 200:
            request = {"id": "x" * length, "status": ""}
            ws.send(TEXT, json.dumps(request).encode())
            ws.receive(TEXT)

        ws.send(CLOSE, struct.pack("!H", 1000) + b"bye")
        ws.receive(CLOSE)
        # The server closes the TCP connection (RFC 6455 §7.1.1).
        if plain.recv(1):
            raise ProtocolError("data after the close frame")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not a WebSocket server: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
