"""Sequence diagrams: one format for what passed between parties, and the one drawer for it.

docs/assets/sequence.js draws the same in a browser, from the same format; a proof holds the two
equal. Change both together.

A trace is a JSON object. Whatever is marked optional may be left out.

`lanes`
    Two or three names, from left to right: `["client", "server"]`.
`unit` (optional)
    The unit of all times, such as "s": the figure has a scale of time. Without it, each `at` is the
    number of a row, from 0, and the figure shows an order only.
`messages`
    In the order in which they passed, each `{"at", "from", "to", "text"}`, and optionally
    `arrives` (the time or row of its arrival, if that is later: the arrow slopes), `lost` (true:
    it did not arrive), and what is recorded but not drawn: `connection`, `bytes`, and `more`
    (true: the response that it is a part of continues).
`bars` (optional)
    Each `{"kind", "lane", "start", "end", "text"}`, where `kind` is "job" or "late", or
    `{"kind": "held", "messages": [request, response]}`, for a request that is open: the positions
    of two messages, or of the request and an `end`. Without its end a bar grows until `now`.
`notes`, `crosses`, `starts` (optional)
    Each `{"at", "lane", "text"}`, written beside the lane; a lane ends at a cross, and begins
    again at a start.
`now` (optional)
    How far a run that is still going on has come.
`scale` (optional)
    The height of one unit in the figure, if it is not to be chosen from the whole length.

Time runs downwards. Messages of the same moment are drawn one below the other, and what comes
later is drawn lower: there the scale of time is stretched.
"""

import json
import math

from .figures import LINE, SIZE, WIDTH, arrow, figure, legend, line, measured, rect, rounded, text

FIRST = 44  # the first message
PITCH = 20  # from one message to the next: room for its text
SCALE = 56  # one unit of time, at the most
LOWEST = 280  # the last message, unless there are too many
TICKS = 34  # the scale of time is written left of this
LANES = {
    (True, 2): [84, 296],
    (False, 2): [40, 258],
    (True, 3): [84, 184, 284],
    (False, 3): [52, 154, 256],
}


def trace_of(lanes, messages, **rest):
    """Return a trace as JSON text, one message a line."""
    lines = [f'"lanes": {json.dumps(lanes)}']
    for name, value in {"unit": rest.pop("unit", None), "messages": messages, **rest}.items():
        if isinstance(value, list):
            each = ",\n  ".join(json.dumps(one, ensure_ascii=False) for one in value)
            value = f"[\n  {each}\n ]"
        elif value is not None:
            value = json.dumps(value)
        if value:
            lines.append(f'"{name}": {value}')
    return "{" + ",\n ".join(lines) + "}\n"


def in_order(rows, lanes=("client", "server")):
    """Return a trace without a scale of time, one row for each of `rows`.

    rows: (kind, text, note), the note to be written beside the last lane, or (kind, text, note,
    lane). `kind` is "up" or "down" for a message from or to the client, "lost" for one from the
    client that did not arrive, "cross" for the end of the lane, "start" for its new beginning,
    "note" for a note alone.
    """
    client = "client" if "client" in lanes else lanes[0]
    found = {"messages": [], "notes": [], "crosses": [], "starts": []}
    for at, (kind, words, note, *lane) in enumerate(rows):
        lane = lane[0] if lane else lanes[-1]
        if kind in ("up", "down", "lost"):
            source, target = (lane, client) if kind == "down" else (client, lane)
            message = {"at": at, "from": source, "to": target, "text": words}
            found["messages"].append(message | {"lost": True} if kind == "lost" else message)
        else:
            name = {"cross": "crosses", "start": "starts", "note": "notes"}[kind]
            found[name].append({"at": at, "lane": lane, "text": words})
        if note:
            found["notes"].append({"at": at, "lane": lane, "text": note})
    return trace_of(list(lanes), **{name: each for name, each in found.items() if each})


def sequence_diagram(trace, title, description):
    """Draw a trace, given as JSON text; return SVG text."""
    height, shapes = layout(json.loads(trace))
    return figure(height, shapes, title, description, "figure sequence")


def layout(trace):
    """Return the height of a figure and its shapes, as (tag, attributes, text), back to front."""
    lanes, messages = trace["lanes"], trace["messages"]
    x = dict(zip(lanes, LANES["unit" in trace, len(lanes)], strict=True))
    bars, crosses, starts = (trace.get(name, []) for name in ("bars", "crosses", "starts"))
    notes = [*trace.get("notes", []), *starts]
    scale = scale_of(trace)
    heights, y = place(trace, scale)

    now = trace.get("now", last_time(trace))
    end = max([y(now), *heights])

    back, front, beside = [], [], []
    for lane in lanes:
        back += life(lane, x[lane], end + 12, y, crosses, starts)
    for bar in bars:
        if bar["kind"] == "held":
            back[:0] = band(bar["messages"], messages, heights, x, y(bar.get("end", now)))
            continue
        top, foot = y(bar["start"]), y(bar.get("end", now))
        back.append(rect(x[bar["lane"]] - 5, top, 10, foot - top, bar["kind"], 5))
        css = "note late" if bar["kind"] == "late" else "note"
        beside.append((bar["lane"], (top + foot) / 2, bar.get("text", ""), css))
    for message, here in zip(messages, heights, strict=True):
        front += passed(message, lanes, x, here, y)
    for each in crosses:
        here = x[each["lane"]]
        front += cross(here, y(each["at"]))
        beside.append((each["lane"], y(each["at"]), each["text"], "note late"))
    beside += [(note["lane"], y(note["at"]), note["text"], "note") for note in notes]
    texts, lowest = written(beside, lanes, x, TICKS if "unit" in trace else 0)
    front += texts
    if "unit" in trace:
        front += ticks(trace, now, scale, heights, y)
    shown, foot = legend(meanings(trace), max(end + 20, lowest + 8))
    return rounded(foot), back + front + shown


def last_time(trace):
    """Return when the last thing in a trace happens."""
    marks = [each for name in ("notes", "crosses", "starts") for each in trace.get(name, [])]
    times = [each.get("arrives", each["at"]) for each in [*trace["messages"], *marks]]
    times += [bar.get(name, 0) for bar in trace.get("bars", []) for name in ("start", "end")]
    return max([0, *times])


def scale_of(trace):
    """Return the height of one unit of time: as much as lets the whole fit."""
    if "unit" not in trace:
        return PITCH
    if "scale" in trace:
        return trace["scale"]
    for scale in range(SCALE, 1, -1):
        heights, y = place(trace, scale)
        if max([y(last_time(trace)), *heights]) <= LOWEST:
            return scale
    return 1


def place(trace, scale):
    """Return the height of each message, and a function from times to heights."""
    # Moments at which something passed: [time, height of the first message, of the last].
    moments, heights, before = [[0, FIRST, FIRST - PITCH]], [], None
    for message in trace["messages"]:
        at, (time, first, last) = message["at"], moments[-1]
        here = max(first + (at - time) * scale, last + PITCH)
        if before and crossed(before, message):
            here = heights[-1]
        if at > time:
            moments.append([at, here, here])
        moments[-1][2] = here
        heights.append(here)
        before = message

    def y(at):
        number = max(n for n, moment in enumerate(moments) if n == 0 or moment[0] <= at)
        time, first, last = moments[number]
        if at <= time:
            return first
        lowest = moments[number + 1][1] if number + 1 < len(moments) else math.inf
        return min(lowest, max(last, first + (at - time) * scale))

    return heights, y


def crossed(one, other):
    """Return whether two messages left opposite lanes at the same time, and so may cross."""
    slow = "arrives" in one and "arrives" in other
    return slow and one["at"] == other["at"] and one["from"] != other["from"]


def life(lane, x, end, y, crosses, starts):
    """Return the lines of a lane, from its name to its end, with the gaps after its crosses."""
    shapes = [text(x, 16, lane, "lane", "middle")]
    marks = [(y(each["at"]), False) for each in crosses if each["lane"] == lane]
    marks += [(y(each["at"]), True) for each in starts if each["lane"] == lane]
    top = 24
    for here, alive in sorted(marks, key=lambda mark: mark[0]):
        if alive:
            top = here
            shapes.append(line(x - 8, here, x + 8, here, "life"))
        elif top is not None:
            shapes.append(line(x, top, x, here, "life"))
            top = None
    return shapes if top is None else [*shapes, line(x, top, x, end, "life")]


def band(positions, messages, heights, x, end):
    """Return the tint between two lanes while a request is open, and its name where there is
    room."""
    request, response = positions[0], positions[1] if len(positions) > 1 else None
    top, open_ = heights[request], response is None or response >= len(messages)
    foot = max(top, end) if open_ else heights[response]
    left, right = sorted(x[messages[request][end]] for end in ("from", "to"))
    shapes = [rect(left, top, right - left, foot - top, "held")]
    between = (len(messages) if open_ else response) - request - 1
    if between == 0 and foot - top >= 60:
        shapes.append(text((left + right) / 2, (top + foot) / 2 + 4, "held", "note", "middle"))
    return shapes


def passed(message, lanes, x, y1, y):
    """Return the arrow of a message, and its text."""
    x1, x2 = x[message["from"]], x[message["to"]]
    css = direction(message, lanes)
    y2 = max(y1, y(message["arrives"])) if "arrives" in message else y1
    sign = 1 if x2 > x1 else -1
    # Where lanes are between the two, it is written before the first of them.
    order = [x[lane] for lane in lanes][::sign]
    beyond = order[order.index(x1) + 1]
    if message.get("lost"):
        x2 = beyond = x1 + (x2 - x1) * 0.7
        shapes = [line(x1, y1, x2, y2, "lost"), *cross(x2, y2)]
        css = "late"
    else:
        shapes = arrow(x1, y1, x2, y2, css)
    room = abs(beyond - x1) - 20
    if y2 > y1:  # written at its start, where no other crosses it
        words = fitted(message["text"], room / 2, SIZE, 1)[0]
        anchor = "start" if sign > 0 else "end"
        return [*shapes, text(x1 + 12 * sign, y1 - 5, words, css, anchor)]
    words = fitted(message["text"], room, SIZE, 1)[0]
    return [*shapes, text((x1 + beyond) / 2, y1 - 5, words, css, "middle")]


def direction(message, lanes):
    """Return the class of a message: "up" if it comes from the client, else "down"; between three
    parties in a row, "up" if it goes to the right."""
    if "client" in lanes and not in_a_row(lanes):
        return "up" if message["from"] == "client" else "down"
    return "up" if lanes.index(message["to"]) > lanes.index(message["from"]) else "down"


def in_a_row(lanes):
    """Return whether a server between two others is the client of the third."""
    return len(lanes) == 3 and lanes[1] == "server"


def cross(x, y):
    return [line(x - 5, y - 5, x + 5, y + 5, "lost"), line(x - 5, y + 5, x + 5, y - 5, "lost")]


def written(beside, lanes, x, edge):
    """Return notes beside their lanes, one below the other, and the foot of the lowest."""
    shapes, lowest = [], {}
    for lane, y, note, css in sorted(beside, key=lambda each: each[1]):
        place = lanes.index(lane)
        left = place == 0
        limit = x[lanes[place + 1]] if place + 1 < len(lanes) else WIDTH + 12
        room = x[lane] - 12 - edge if left else limit - x[lane] - 24
        here = max(y + 4, lowest.get(lane, 0))
        for words in fitted(note, room, SIZE, 3) if note else []:
            at, anchor = (x[lane] - 10, "end") if left else (x[lane] + 12, "start")
            shapes.append(text(at, here, words, css, anchor))
            here += LINE
            lowest[lane] = here
    return shapes, max([0, *lowest.values()]) - 12


def ticks(trace, now, scale, heights, y):
    """Return the scale of time: whole units, where there is room, and no message beside it that
    passed much earlier or later."""
    others = list(zip(heights, (message["at"] for message in trace["messages"]), strict=True))
    shapes, before = [], -LINE
    for time in range(0, math.floor(now) + 1, math.ceil(LINE / scale)):
        here = y(time)
        misleading = any(abs(other - here) < 8 < abs(at - time) * scale for other, at in others)
        if here - before >= LINE and not misleading:
            before = here
            shapes.append(text(4, here + 4, f"{time} {trace['unit']}" if time else "0", "tick"))
    return shapes


def meanings(trace):
    """Return what the colours of a trace mean: [(class, words)]."""
    lanes = trace["lanes"]
    client = "client" if "client" in lanes else lanes[0]
    server = next(lane for lane in lanes[::-1] if lane != client)
    if len(lanes) > 2:  # "gateway A" and "gateway B" are both a gateway
        server = server.split(" ")[0]
    names = {"up": f"{client} → {server}", "down": f"{server} → {client}"}
    if in_a_row(lanes):
        names = {"up": "request", "down": "response"}
    names |= {"held": "held", "late": "late"}
    used = {direction(message, lanes) for message in trace["messages"]}
    used |= {bar["kind"] for bar in trace.get("bars", [])}
    return [(css, words) for css, words in names.items() if css in used]


def fitted(words, room, size, lines):
    """Return a text in at most so many lines, each cut to the room."""
    found = []
    for word in words.split(" "):
        longer = f"{found[-1]} {word}" if found else word
        if found and (len(found) == lines or measured(longer, size) <= room):
            found[-1] = longer
        else:
            found.append(word)
    return [cut(each, room, size) for each in found]


def cut(words, room, size):
    if measured(words, size) <= room:
        return words
    while words and measured(f"{words}…", size) > room:
        words = words[:-1]
    return f"{words}…"
