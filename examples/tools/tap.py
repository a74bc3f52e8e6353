# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Show what passes between a client and a server, and disturb it.

The tap listens on 127.0.0.1, forwards each connection to the server,
and prints what passes, secrets included: `>` is from the client, `<`
from the server. Options and keys delay, hold, drop or cut what one
side sends. It does not support TLS.

- Run: `uv run tap.py`
- or: `python tap.py`
- Options: `--delay S`, `--hold`, `--drop`, `--cut N`, `--refuse`, and
  which side they act on, `--from` (default server); the server's
  address, `--to`; the port of the tap is in PORT (default 9000), so
  a client needs URL=http://127.0.0.1:9000
- Needs: Linux or macOS, and server.py, running, or another server
  on 127.0.0.1:8000
- Source: TCP, RFC 9293 §3.6; HTTP messages, RFC 9112 §2.1
"""

import argparse
import asyncio
import math
import os
import signal
import socket
import struct
import sys
import termios
import threading
import tty
from collections import Counter
from contextlib import closing, contextmanager, suppress
from functools import partial
from time import monotonic

HOST = "127.0.0.1"
PORT = int(os.environ.get("PORT", 9000))
MAX_PRINTED = 2000  # characters of each piece that arrives
KEYS = "h hold, d drop, r refuse, c cut all, q quit"
MARKS = {"client": ">", "server": "<", "both": "<>"}


# --8<-- [start:tap]
class Tap:
    """Forwards connections; prints and disturbs what passes."""

    def __init__(self, options):
        self.port, self.to = options.port, options.to
        self.marks = MARKS[options.side]
        self.delay, self.cut = options.delay, options.cut
        self.hold, self.drop = options.hold, options.drop
        self.released = asyncio.Event()
        self.start, self.count = monotonic(), 0
        self.sent = Counter()  # bytes, by connection and side
        self.links, self.websockets = set(), set()

    async def listen(self):
        """Accept connections from now on."""
        listen = asyncio.start_server
        self.server = await listen(self.accept, HOST, self.port)

    def accept(self, reader, writer):
        self.count += 1
        link = self.connect(self.count, reader, writer)
        task = asyncio.create_task(link)
        self.links.add(task)
        task.add_done_callback(self.links.discard)

    async def connect(self, number, reader, writer):
        """Carry one connection until it ends."""
        with closing(writer):
            try:
                back, to = await asyncio.open_connection(*self.to)
            except OSError:
                self.log(number, "<", "(cannot connect)")
                self.report(number, "<", None)
                reset(writer)
                return
            with closing(to):
                up = self.pump(number, ">", reader, to)
                down = self.pump(number, "<", back, writer)
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(up)
                        both.create_task(down)
                    await asyncio.sleep(self.delay)  # for the last
                except* ConnectionAbortedError:
                    pass  # a cut
                except* OSError:
                    for mark, source in (">", reader), ("<", back):
                        if source.exception():
                            self.report(number, mark, None)
                    reset(writer)
                    reset(to)

    async def pump(self, number, mark, reader, writer):
        """Forward what one side sends until it ends."""
        data = True
        while data:
            data = await reader.read(65536)
            self.report(number, mark, data)
            if mark in self.marks:
                await self.disturb(number, mark, data, writer)
            else:
                forward(writer, data)
            await writer.drain()

    async def disturb(self, number, mark, data, writer):
        """Hold, drop, cut or delay what one side sends."""
        while self.hold:
            self.log(number, mark, "(held)")
            await self.released.wait()
        if self.drop:
            self.log(number, mark, "(dropped)")
            return
        left = self.cut - self.sent[number, mark]
        self.sent[number, mark] += len(data)
        cut = len(data) >= left
        later = asyncio.get_running_loop().call_later
        later(self.delay, forward, writer, data[:left] if cut else data)
        if cut:
            self.log(number, mark, f"(cut at byte {self.cut})")
            self.cut = math.inf  # once
            await asyncio.sleep(self.delay)
            raise ConnectionAbortedError

    def report(self, number, mark, data):
        """Print what one side has sent."""
        self.log(number, mark, *self.describe(number, data))

    async def press(self, key):
        """Do what a key of KEYS means."""
        if key == "h":
            self.hold = not self.hold
            self.released.set()
            self.released = asyncio.Event()
            show(f"hold: {self.hold}")
        elif key == "d":
            self.drop = not self.drop
            show(f"drop: {self.drop}")
        elif key == "r" and self.server.is_serving():
            self.server.close()
            show("refuse: True")
        elif key == "r":
            await self.listen()
            show("refuse: False")
        elif key == "c":
            show(f"cut: {len(self.links)} connections")
            await self.cut_all()

    async def cut_all(self):
        """End all connections."""
        links = [link for link in self.links if link.cancel()]
        await asyncio.gather(*links, return_exceptions=True)

    def log(self, number, mark, *lines):
        """Print lines about a connection, the first with the time."""
        when = f"{monotonic() - self.start:.3f}"
        for line in lines:
            line = "".join(map(escape, line))
            show(f"{number} {mark} {when:>7} {line}".rstrip())
            when = ""

    def describe(self, number, data):
        """Return lines that show data: text, or frames in hex.

        No data is the end of the stream, and None a reset.
        """
        if not data:
            return ["(reset)" if data is None else "(end)"]
        head, frames = data, b""
        if number in self.websockets:
            head, frames = b"", data
        elif data.startswith(b"HTTP/1.1 101 "):
            self.websockets.add(number)
            head, _, frames = data.partition(b"\r\n\r\n")
        text = head.decode(errors="backslashreplace")
        lines = text[:MAX_PRINTED].splitlines()
        if len(text) > MAX_PRINTED:
            lines.append(f"… ({len(data)} bytes)")
        if frames:
            more = " …" * (len(frames) > 16)
            size = f"({len(frames)} bytes)"
            lines.append(f"{frames[:16].hex(' ')}{more} {size}")
        return lines


# --8<-- [end:tap]


def escape(character):
    """Return a character, or an escape if a terminal may obey it."""
    safe = character.isprintable()
    return character if safe else ascii(character)[1:-1]


def forward(writer, data):
    """Send data, or the end of the stream if `data` is empty."""
    if data and not writer.is_closing():
        writer.write(data)
    elif not writer.is_closing():
        with suppress(OSError):  # the other side has reset it
            writer.write_eof()


def reset(writer):
    """Close a connection with a reset: lingering for 0 s means that."""
    sock = writer.get_extra_info("socket")
    now = struct.pack("ii", 1, 0)
    with suppress(OSError):  # it is closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
    writer.transport.abort()


def show(line):
    """Print a line; stop if nothing reads the output any more."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signal.raise_signal(signal.SIGTERM)


def read_keys(press):
    """Call `press` with each character of the standard input."""
    with suppress(OSError, RuntimeError):  # no input; no loop any more
        while keys := os.read(0, 100):
            for key in keys.decode(errors="replace"):
                press(key)


@contextmanager
def single_keys():
    """Have a terminal deliver keys at once, without Enter."""
    if not os.isatty(0) or os.tcgetpgrp(0) != os.getpgrp():
        yield  # not a terminal, or in the background of one
        return
    saved = termios.tcgetattr(0)
    tty.setcbreak(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def address(text):
    """Return (host, port) for HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not 0 < int(port) < 65536:
        raise ValueError
    return host, int(port)


def parse_options(words=None):
    what = "They act on what --from sends, default server. Keys: "
    parser = argparse.ArgumentParser(description=f"{what}{KEYS}.")
    parser.set_defaults(port=PORT, to=(HOST, 8000))
    parser.set_defaults(delay=0, cut=math.inf)
    add = parser.add_argument
    add("--to", type=address, metavar="HOST:PORT", help="the server")
    add("--from", dest="side", choices=MARKS, default="server")
    add("--delay", type=float, metavar="S", help="by S seconds")
    add("--hold", action="store_true", help="until key h")
    add("--drop", action="store_true", help="until key d")
    add("--cut", type=int, metavar="N", help="once, after N bytes")
    add("--refuse", action="store_true", help="until key r")
    options = parser.parse_args(words)
    if not 0 <= options.delay <= 3600 or options.cut < 0:
        parser.error("--delay is 0 to 3600 seconds, --cut at least 0")
    return options


async def main(options):
    tap, keys = Tap(options), asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in signal.SIGINT, signal.SIGTERM:
        loop.add_signal_handler(number, keys.put_nowait, "q")
    await tap.listen()
    if options.refuse:
        await tap.press("r")
    server = "{}:{}".format(*tap.to)
    show(f"listening on {HOST}:{PORT}, server {server}")
    show(f"keys: {KEYS}")

    press = partial(loop.call_soon_threadsafe, keys.put_nowait)
    keyboard = threading.Thread(target=read_keys, args=[press])
    keyboard.daemon = True  # it may wait for a key for ever
    keyboard.start()
    while (key := await keys.get()) != "q":
        await tap.press(key)
    tap.server.close()
    await tap.press("c")


if __name__ == "__main__":
    options = parse_options()
    try:
        with single_keys():
            asyncio.run(main(options))
    except OSError as error:
        sys.exit(f"cannot listen: {error}")
