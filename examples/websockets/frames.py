# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Every kind of frame by hand, over a plain socket.

Hands in a job in two fragments with a ping between them, asks
something long, and closes politely.

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
    """Mask a payload, or unmask it: xor with the key, over and over."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def encode(opcode, payload, final=True):
    """Return a frame as a client must send it: masked."""
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
    """Read a frame of a server: (opcode, payload, final).

    `read(n)` returns the next n bytes.
    """
    first, second = read(2)
    final, opcode = bool(first >> 7), first & 0b1111
    if second >> 7:
        raise ValueError("a server must not mask")
    length = second & 0b1111111
    if length == 126:
        (length,) = struct.unpack("!H", read(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", read(8))
    return opcode, read(length), final
# --8<-- [end:decode]


class Connection:
    """A WebSocket, and a line printed for each frame."""

    def __init__(self, plain):
        self.plain = plain
        self.file = plain.makefile("rb")

    def read(self, size):
        data = self.file.read(size)
        if len(data) < size:
            raise ConnectionError("the server hung up")
        return data

    def open(self, host, path):
        """Shake hands; handshake.py shows what is to be checked."""
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.plain.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = self.file.readline().decode("latin-1").strip()
        if status.split()[1:2] != ["101"]:
            raise ValueError(f"no upgrade: {status}")
        while self.file.readline().strip():
            pass

    def send(self, opcode, payload, final=True):
        frame = encode(opcode, payload, final)
        self.plain.sendall(frame)
        self.say("sent", opcode, payload, final, len(frame))

    def receive(self, *wanted):
        """Return the next payload of a wanted kind."""
        while True:
            opcode, payload, final = decode(self.read)
            head = 2 if len(payload) <= 125 else 4
            size = head + len(payload)
            self.say("received", opcode, payload, final, size)
            if opcode == PING:  # must be answered, with what it holds
                self.send(PONG, payload)
            if opcode in wanted:
                return payload

    def say(self, what, opcode, payload, final, size):
        more = "" if final else ", to be continued"
        print(
            f"{what:<9}{NAMES.get(opcode, opcode)}{more}:"
            f" {len(payload)} bytes in a frame of {size}",
            flush=True,
        )


# --8<-- [start:main]
def main():
    address = urlsplit(URL)
    where = address.hostname, address.port or 80
    with socket.create_connection(where, timeout=10) as plain:
        ws = Connection(plain)
        ws.open(address.netloc, f"{address.path}/jobs/socket")

        # A message in two frames. Control frames may come between.
        job = {"id": 1, "submit": {"seconds": SECONDS}}
        text = json.dumps(job).encode()
        ws.send(TEXT, text[:10], final=False)
        ws.send(PING, b"still there?")
        ws.send(CONTINUATION, text[10:])
        ws.receive(PONG)
        ws.receive(TEXT)  # pending
        print(ws.receive(TEXT).decode())  # done: nobody asked

        # An id is echoed, so that a long one makes a long answer.
        for length in 87, 200:
            question = {"id": "x" * length, "status": ""}
            ws.send(TEXT, json.dumps(question).encode())
            ws.receive(TEXT)

        ws.send(CLOSE, struct.pack("!H", 1000) + b"thank you")
        ws.receive(CLOSE)
        # The server is the one to end TCP (RFC 6455 §7.1.1).
        if plain.recv(1):
            raise ValueError("something after the close")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except (TypeError, ValueError) as error:
        sys.exit(f"{URL} speaks no WebSocket: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
