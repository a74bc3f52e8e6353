"""From the bytes that a tap saw after a 101 to WebSocket frames, messages and hexdumps.

The HTTP part is cut off by messages.py; what follows on that connection is frames. They are cut
by hand here (RFC 6455 §5.2), so that the raw bytes are kept; a proof compares with the parser of
the websockets library.
"""

import hashlib
import html
import json
import struct
import zlib
from dataclasses import dataclass

from .messages import counts, messages
from .messages import transcript as http_transcript
from .recorder import stable

NAMES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


@dataclass
class Frame:
    """One frame as it passed."""

    at: float  # when its first byte passed, seconds since the tap was opened
    connection: int
    source: str  # "client" or "server"
    data: bytes  # all of it, as sent
    final: bool
    compressed: bool
    opcode: int
    size: int  # of the payload, as announced
    header: int  # bytes before the payload, the mask included
    mask: bytes  # empty, if there is none
    payload: bytes  # unmasked

    @property
    def name(self):
        return NAMES.get(self.opcode, str(self.opcode))

    @property
    def is_control(self):
        return self.opcode >= 8


@dataclass
class Said:
    """One text or binary message, put together from its frames."""

    frames: list[Frame]
    text: str

    def __post_init__(self):
        first = self.frames[0]
        self.at, self.connection, self.source = first.at, first.connection, first.source
        self.end = self.frames[-1].at
        self.data = b"".join(frame.data for frame in self.frames)

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def label(self):
        """The message in two words: "1 submit", "1 pending", "pushed done"."""
        message = self.json
        if self.source == "client":
            return f"{message['id']} {'submit' if 'submit' in message else 'status'}"
        words = message.get("status", "error")
        return f"{message['id']} {words}" if "id" in message else f"pushed {words}"


def unmask(payload, mask):
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)) if mask else payload


def cut(data):
    """Cut bytes into frames; yield (offset, fields of Frame). An incomplete frame is left."""
    at = 0
    while len(data) - at >= 2:
        first, second = data[at : at + 2]
        size, head = second & 127, 2
        if size >= 126:
            kind, more = ("!H", 2) if size == 126 else ("!Q", 8)
            if len(data) - at < head + more:
                return
            (size,) = struct.unpack(kind, data[at + head : at + head + more])
            head += more
        masked = 4 if second >> 7 else 0
        end = at + head + masked + size
        if len(data) < end:
            return
        mask = data[at + head : at + head + masked]
        yield (
            at,
            {
                "data": data[at:end],
                "final": bool(first >> 7),
                "compressed": bool(first & 0x40),
                "opcode": first & 15,
                "size": size,
                "header": head + masked,
                "mask": mask,
                "payload": unmask(data[at + head + masked : end], mask),
            },
        )
        at = end


def frames(events):
    """Return the frames in what a tap saw, in the order in which they began."""
    found = []
    read = messages(events)
    for connection in {message.connection for message in read if message.status == 101}:
        for source in "client", "server":
            ours = [e for e in events if (e.connection, e.source) == (connection, source)]
            http = sum(
                len(m.data) for m in read if (m.connection, m.source) == (connection, source)
            )
            stream = b"".join(event.data for event in ours)
            for offset, fields in cut(stream[http:]):
                number, at = when(ours, http + offset)
                found.append((at, events.index(number), Frame(at, connection, source, **fields)))
    return [frame for _, _, frame in sorted(found, key=lambda each: each[:2])]


def when(events, offset):
    """Return the event that brought the byte at an offset, and its time."""
    for event in events:
        if offset < len(event.data):
            return event, event.at
        offset -= len(event.data)
    raise ValueError(offset)


def socket_messages(events):
    """Return the text and binary messages in what a tap saw, in the order in which they began."""
    found, open_, inflate = [], {}, {}
    for frame in frames(events):
        if frame.is_control:
            continue
        side = frame.connection, frame.source
        parts = open_.setdefault(side, [])
        parts.append(frame)
        if frame.final:
            payload = b"".join(part.payload for part in parts)
            if parts[0].compressed:
                inflater = inflate.setdefault(side, zlib.decompressobj(-15))
                payload = inflater.decompress(payload + b"\0\0\xff\xff")
            found.append(Said(parts, payload.decode(errors="replace")))
            del open_[side]
    return sorted(found, key=lambda message: message.at)


def conversation(events):
    """Return all messages, by HTTP and on WebSockets, in the order in which it began."""
    return sorted(messages(events) + socket_messages(events), key=lambda message: message.at)


def costs(tap):
    """Return what a run cost on the wire, as `counts` does; a message of the client on a WebSocket
    counts as a request."""
    requests = sum(message.source == "client" for message in socket_messages(tap.events))
    found = counts(tap)
    return found | {"round trips": found["round trips"] + requests}


# Shown


def title(frame):
    who = "client → server" if frame.source == "client" else "server → client"
    more = "" if frame.final else ", to be continued"
    return (
        f"{who} · {frame.name}{more} · {len(frame.data)} bytes = "
        f"{frame.header} + {len(frame.payload)}"
    )


def shown_payload(frame):
    """Return a payload as text: that of a close with its code in digits."""
    if frame.compressed:
        return frame.payload.hex(" ")
    if frame.opcode == 8 and len(frame.payload) >= 2:
        code, reason = int.from_bytes(frame.payload[:2]), frame.payload[2:].decode()
        return f"{code} {reason}".strip()
    return frame.payload.decode(errors="replace")


def transcript(items, label):
    """Return HTTP messages and frames as HTML, one block each, coloured by direction."""
    blocks = []
    for item in items:
        if isinstance(item, Frame):
            css = "up" if item.source == "client" else "down"
            text = html.escape(shown_payload(item), quote=False)
            blocks.append(f'<li class="{css}"><p>{title(item)}</p><pre>{text}</pre></li>')
        else:
            blocks += http_transcript([item], label).splitlines()[1:-1]
    return "\n".join([f'<ol class="wire" aria-label="{html.escape(label)}">', *blocks, "</ol>", ""])


def made_stable(found):
    """Return frames whose tokens and masks are the same in every run.

    The payload is unmasked, made stable as the recorder does it, and masked again with a
    stand-in, since in a hexdump the recorder could find neither.
    """
    text = stable("".join(frame.payload.decode("latin-1") for frame in found)).encode("latin-1")
    changed, at = [], 0
    for number, frame in enumerate(found, 1):
        payload, at = text[at : at + len(frame.payload)], at + len(frame.payload)
        head = frame.data[: frame.header - len(frame.mask)]
        mask = hashlib.sha256(f"mask {number}".encode()).digest()[: len(frame.mask)]
        data = head + mask + unmask(payload, mask)
        changed.append(Frame(**vars(frame) | {"data": data, "mask": mask, "payload": payload}))
    return changed


def hexdump(found, label):
    """Return frames as HTML: every byte, and what it means beside it.

    Of a payload longer than 80 bytes the first 16 are shown.
    """
    blocks = []
    for frame in made_stable(found):
        most = len(frame.payload) if len(frame.payload) <= 80 else 16
        rows = [*header_rows(frame), *payload_rows(frame, most)]
        # The content of a header stands nearer, so that it fits on a phone.
        lines = [
            f"{data.hex(' '):<{width}}  {html.escape(note, quote=False)}"
            for width, data, note in rows
        ]
        if len(frame.payload) > most:
            lines = [*lines, f"… and {len(frame.payload) - most:,} more bytes of payload"]
        css = "up" if frame.source == "client" else "down"
        blocks.append(
            f'<li class="{css}"><p>{title(frame)}</p><pre>{chr(10).join(lines)}</pre></li>'
        )
    return "\n".join(
        [f'<ol class="wire hex" aria-label="{html.escape(label)}">', *blocks, "</ol>", ""]
    )


def header_rows(frame):
    """Yield (width, bytes, what they mean) for the header of a frame."""
    data = frame.data
    final = "final" if frame.final else "more to come"
    yield 11, data[:1], f"{final}, {'compressed ' * frame.compressed}{frame.name}"
    short, end = data[1] & 127, frame.header - len(frame.mask)
    length = f"{short} bytes" if short < 126 else str(short)
    yield 11, data[1:2], f"{'masked' if frame.mask else 'not masked'}, {length}"
    if short >= 126:
        yield 11, data[2:end], f"{frame.size:,} bytes"
    if frame.mask:
        yield 11, frame.mask, "the masking key"


def payload_rows(frame, most):
    """Yield (width, bytes, the text that they stand for), eight at a time."""
    start, payload = frame.header, frame.payload[:most]
    if frame.opcode == 8 and len(payload) >= 2:
        yield 11, frame.data[start : start + 2], f"code {int.from_bytes(payload[:2])}"
        start, payload = start + 2, payload[2:]
    for at in range(0, len(payload), 8):
        part = payload[at : at + 8]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in part)
        yield 23, frame.data[start + at : start + at + len(part)], shown
