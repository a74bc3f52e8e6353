"""From the bytes that a tap saw to HTTP messages, transcripts and traces.

The parser is h11's: the client's bytes go through an h11 server, the server's through an h11
client, and each passes to the other what it read, as in a proxy whose output is thrown away.
"""

import asyncio
import html
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import h11

from .sequence import trace_of


@dataclass
class Message:
    """One HTTP message as it passed."""

    at: float  # when its first byte passed, seconds since the tap was opened
    connection: int
    source: str  # "client" or "server"
    data: bytes = b""  # all of it, as sent
    body: bytes = b""  # decoded from chunks, if it came in any
    headers: dict = field(default_factory=dict)  # names in lower case
    method: str = ""
    target: str = ""
    status: int = 0
    passed: list = field(default_factory=list)  # (at, length of data so far), as it passed

    @property
    def end(self):
        """When its last byte passed."""
        return self.passed[-1][0]

    @property
    def start_line(self):
        return self.data.split(b"\r\n")[0].decode()

    @property
    def json(self):
        return json.loads(self.body)


class _Side:
    """The bytes of one direction of one connection, cut into messages."""

    def __init__(self, role):
        self.h11 = h11.Connection(role)
        self.waiting = b""  # received, and not yet part of a message
        self.message = None

    def read(self, data):
        self.waiting += data
        self.h11.receive_data(data)

    def next(self):
        """Return (event, the bytes it was read from)."""
        event = self.h11.next_event()
        cut = len(self.waiting) - len(self.h11.trailing_data[0])
        taken, self.waiting = self.waiting[:cut], self.waiting[cut:]
        return event, taken


def messages(events):
    """Return the HTTP messages in what a tap saw, in the order in which they began."""
    found, connections = [], {}
    for event in events:
        if event.kind != "data":
            continue
        if event.connection not in connections:
            connections[event.connection] = {
                "client": _Side(h11.SERVER),
                "server": _Side(h11.CLIENT),
            }
        sides = connections[event.connection]
        sides[event.source].read(event.data)
        _advance(event, sides, found)
    return found


def _advance(event, sides, found):
    """Read all that can be read; a request that came early waits for the response before it."""
    while any([_read_one(event, source, sides, found) for source in sides]):
        if all(each.h11.our_state is each.h11.their_state is h11.DONE for each in sides.values()):
            for each in sides.values():
                each.h11.start_next_cycle()


def _read_one(event, source, sides, found):
    """Read one h11 event of one side; return whether there was one."""
    side, other = sides[source], sides["server" if source == "client" else "client"]
    read, taken = side.next()
    if isinstance(read, (h11.Request, h11.Response, h11.InformationalResponse)):
        side.message = Message(event.at, event.connection, source)
        side.message.headers = {k.decode(): v.decode() for k, v in read.headers}
        if isinstance(read, h11.Request):
            side.message.method = read.method.decode()
            side.message.target = read.target.decode()
        else:
            side.message.status = read.status_code
        found.append(side.message)
    if side.message:
        side.message.data += taken
        if taken:
            side.message.passed.append((event.at, len(side.message.data)))
    if isinstance(read, h11.Data):
        side.message.body += bytes(read.data)
    if not isinstance(read, h11.Event) or isinstance(read, h11.ConnectionClosed):
        return False
    other.h11.send(read)
    return True


def counts(tap):
    """Return what a run cost on the wire.

    Round trips are those that the client waited for: one to open each connection, and one
    for each request.
    """
    requests = sum(message.source == "client" for message in messages(tap.events))
    return {
        "connections": tap.connections,
        "requests": requests,
        "bytes up": tap.bytes("client"),
        "bytes down": tap.bytes("server"),
        "round trips": tap.connections + requests,
    }


def late(found, job, unit=1):
    """Return how long after the end of a job of so many seconds the last message passed.

    In units of so many seconds, rounded down to halves: a busy machine adds some, which is not
    the point.
    """
    return f"{int((found[-1].end - found[0].at - job) / unit * 2 + 0.1) / 2:g}"


def exchanges(found):
    """Return (request, response) pairs, in the order of the requests."""
    pairs = []
    for message in found:
        if message.source == "client":
            pairs.append([message, None])
        else:
            pair = next(p for p in pairs if p[0].connection == message.connection and not p[1])
            pair[1] = message
    return pairs


def label(message):
    """Return a message in two words, for a figure."""
    if not isinstance(message, Message):
        return message.label  # one of a WebSocket: see frames.py
    if "upgrade" in message.headers or message.status == 101:
        return "GET, upgrade" if message.source == "client" else "101"
    if message.source == "client":
        return f"{message.method} {message.target}"
    words = [str(message.status)]
    with suppress(ValueError, KeyError, TypeError):
        words.append(message.json["status"])
    return " ".join(map(str, words))


def wire_list(blocks, title):
    """Return blocks of HTML as a list of messages.

    It has no blank line, at which Markdown would end the HTML where it stands in a fold.
    """
    lines = [f'<ol class="wire" aria-label="{html.escape(title)}">', *blocks, "</ol>", ""]
    return re.sub(r"\n(?=\n)", "\n&#10;", "\n".join(lines)).replace("&#10;\n", "&#10;")


def transcript(found, title, parties=("client", "server")):
    """Return messages as HTML, one block a message, coloured by direction, with real bytes."""
    blocks = []
    for message in found:
        up = message.source == "client"
        who = " → ".join(parties if up else reversed(parties))
        head, _, body = message.data.decode().partition("\r\n\r\n")
        body = body.replace("\r\n", "\n")
        size = f"{len(message.data)} bytes"
        text = html.escape(head.replace("\r\n", "\n"), quote=False)
        if body:
            text += f"\n<span class='body'>{html.escape(body, quote=False)}</span>"
        blocks.append(
            f'<li class="{"up" if up else "down"}">'
            f"<p>{who} · connection {message.connection} · {size}</p><pre>{text}</pre></li>"
        )
    return wire_list(blocks, title)


def pieces(message):
    """Return (when, bytes) for each piece that a chunked message was sent in, as sent.

    The head comes first, then each chunk with its size, at last the empty chunk, if it came.
    """
    head, _, rest = message.data.partition(b"\r\n\r\n")
    cuts = [0, len(head) + 4]
    while (line := rest.partition(b"\r\n"))[1]:
        length = len(line[0]) + 2 + int(line[0], 16) + 2
        cuts.append(cuts[-1] + length)
        rest = rest[length:]
    return [
        (next((at for at, length in message.passed if length > start), message.end), data)
        for start, end in pairwise(cuts)
        if (data := message.data[start:end])
    ]


def events_of(message):
    """Return (when, text) for each event or comment of a stream of server-sent events."""
    found, text = [], ""
    for at, piece in pieces(message)[1:]:
        text += piece.partition(b"\r\n")[2][:-2].decode()
        *whole, text = text.split("\n\n")
        found += [(at, each) for each in whole]
    return found


def stream_trace(found, unit, job, step=1):
    """Return the trace that `trace` does, with the events of a stream in place of its head.

    A message with `more` is not the last of its response.
    """
    start, drawn = found[0].at, []
    for message, first in zip(found, steps(found, unit, step), strict=True):
        drawn.append(first)
        if message.target.endswith("/events"):
            first["text"] += "/events"
        if message.headers.get("content-type") != "text/event-stream":
            continue
        drawn.pop()
        for at, text in events_of(message):
            event = re.search("^(event: .*|:.*)", text, re.MULTILINE)
            if event:  # and not what only sets the time to wait
                at = int((at - start) / unit / step + 0.05) * step
                entry = {"at": at, "text": event[0], "bytes": len(text) + 2, "more": True}
                drawn.append(first | entry)
        drawn[-1].pop("more", None)
    return job_trace(drawn, job)


async def whole_stream(event):
    """Given to a tap as `on_data`, let it record the whole response: forward the last event of a
    job when the server has had time to end the stream, as clients close on that event."""
    if event.source == "server" and b"event: done" in event.data:
        await asyncio.sleep(0.3)


def stream_transcript(found, title, start=None, unit=1, step=1):
    """Return messages as HTML, as `transcript` does, with a streamed response in its pieces.

    Each piece has its time after `start`, in units of `unit` seconds, rounded down to `step`;
    without `start` it has none. A busy machine is late and never early, so the times repeat.
    """
    split = []
    for message in found:
        if message.headers.get("transfer-encoding") != "chunked":
            split.append((message, ""))
            continue
        for at, data in pieces(message):
            piece = Message(at, message.connection, message.source, data)
            after = int((at - (at if start is None else start)) / unit / step + 0.05) * step
            split.append((piece, f" · after {after:g} s" if after else ""))
    blocks = []
    for piece, when in split:
        block = transcript([piece], title).splitlines()[1:-1]
        block[0] = block[0].replace(" bytes</p>", f" bytes{when}</p>")
        # The line break after a chunk is none of the event's.
        blocks.append("\n".join(block).replace("&#10;&#10;</pre>", "&#10;</pre>"))
    return wire_list(blocks, title)


def trace(found, unit, job, step=1):
    """Return messages as the trace of a sequence diagram: see sequence.py.

    `unit`: how many seconds of this run are drawn as one. Times are rounded down to whole units,
    or to multiples of `step` units, as a busy machine is late and never early, so that it draws
    the same. `job`: its start and its end, in units.
    """
    return job_trace(steps(found, unit, step), job)


def steps(found, unit, step):
    """Return messages as those of a trace, their times rounded down."""
    start = found[0].at
    sides = {"client": "server", "server": "client"}
    return [
        {
            "at": int((message.at - start) / unit / step + 0.05) * step,
            "from": message.source,
            "to": sides[message.source],
            "text": label(message).split("/jobs/")[0] + "/jobs/…" * ("/jobs/" in label(message)),
            "connection": message.connection,
            "bytes": len(message.data),
        }
        for message in found
    ]


def job_trace(drawn, job):
    """Return the trace of a job: its messages, when it ran, which requests were held, and how
    late the client received the last message."""
    (start, end), drawn = job, sorted(drawn, key=lambda message: message["at"])
    last = drawn[-1]["at"]
    bars = [{"kind": "job", "lane": "server", "start": start, "end": end, "text": "job"}]
    if last > end:
        bars.append({"kind": "late", "lane": "client", "start": end, "end": last, "text": "late"})
    bars += [{"kind": "held", "messages": pair} for pair in held(drawn)]
    done = [{"at": end, "lane": "server", "text": "done"}]
    return trace_of(["client", "server"], drawn, unit="s", bars=bars, notes=done)


def held(drawn):
    """Return [request, response], as positions, for each request that was held open."""
    found, requests = [], {}
    for number, message in enumerate(drawn):
        if message["from"] == "client":
            requests[message["connection"]] = number
        elif not message.get("more"):  # of a response that continues
            request = requests.pop(message["connection"], number)
            if message["at"] > drawn[request]["at"]:
                found.append([request, number])
    return found


def single_values(numbers):
    """Return a file with each number in a section of its own: {name: number}.

    A page includes it in a line of its own: in a sentence, a definition, or a cell of a table.
    """
    mark = "--8<-- [{}:{}]"
    return "".join(
        f"{mark.format('start', name)}\n{words}\n{mark.format('end', name)}\n"
        for name, words in numbers.items()
    )


def table(rows):
    """Return a list of dicts as a Markdown table, one column for each key."""
    names = list(rows[0])
    lines = [names, ["---"] + ["--:"] * (len(names) - 1)]
    lines += [
        [format(row[name], ",") if isinstance(row[name], int) else row[name] for name in names]
        for row in rows
    ]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
