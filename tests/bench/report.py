"""Tables from results.json: medians with their spread, ratios first."""

import json
import math
import re
import statistics
from collections import defaultdict
from functools import cache

from ..support.messages import table
from ..support.recorder import SNIPPETS
from . import simulation
from .harness import fitted

PARTS = ("held", "pings", "requests", "jobs", "rates", "broadcast", "stalled", "log", "scale")
OURS = "notifications/server.py"


@cache
def results():
    return json.loads((SNIPPETS / "measurements/results.json").read_text())


def runs(part, name):
    """Return what was measured of a contender: nothing if it was refused."""
    found = results().get(part, {}).get(name, {})
    return [] if "refused" in found else found.get("runs", [])


def values(part, name, key):
    """Return what each run of a contender found."""
    return [run[key] for run in runs(part, name)]


def middle(numbers):
    """Return the median, or NaN of no numbers: that of a contender that was refused."""
    return statistics.median(numbers) if numbers else math.nan


def median(part, name, key):
    return middle(values(part, name, key))


def measured(part):
    """Return the contenders of a part of which every run was measured."""
    return [name for name, found in results()[part].items() if "refused" not in found]


def refused(part):
    """Return [(contender, why it was not measured)]."""
    found = results()[part].items()
    return [(name, each["refused"]) for name, each in found if "refused" in each]


def spread(numbers):
    """Return the smallest and the largest of some numbers."""
    ends = [amount(end(numbers, default=math.nan)) for end in (min, max)]
    return "–".join(dict.fromkeys(ends))


def amount(value):
    """Return a number with three significant digits at most."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def held_rows():
    """Return a row for each kind of held connection, with its memory in multiples of Sanic's."""
    rows = []
    for name in measured("held"):
        kind = name.split(":")[0]
        kib = median("held", name, "kib")
        rows.append(
            {
                "connection": name,
                "× Sanic": f"{kib / median('held', f'{kind}: Sanic', 'kib'):.2f}",
                "KiB each": amount(kib),
                "spread": spread(values("held", name, "kib")),
                "MiB of the empty process": amount(median("held", name, "base") / 1024),
                "processor while idle": f"{median('held', name, 'idle'):.1%}",
            }
        )
    return rows


def opened():
    """Return the largest number of connections that was held."""
    return results()["plan"]["sizes"][-1]


def ping_rows():
    """Return a row for each server that pings, with the cost of a ping in multiples of Sanic's."""
    rows = []
    for name in measured("pings"):
        cost = median("pings", name, "microseconds")
        rows.append(
            {
                "server": name,
                "× Sanic": f"{cost / median('pings', 'Sanic', 'microseconds'):.2f}",
                "µs for a ping and its pong": amount(cost),
                "spread": spread(values("pings", name, "microseconds")),
                "processor, 10,000 clients": f"{cost * 10_000 / simulation.PING / 1e6:.1%}",
                "KiB more for each": amount(median("pings", name, "kib")),
            }
        )
    return rows


def request_rows():
    """Return a row for each kind of request, in multiples of Sanic's with keep-alive."""
    rows = []
    for name in measured("requests"):
        cost = median("requests", name, "microseconds")
        least = median("requests", "Sanic, keep-alive", "microseconds")
        rows.append(
            {
                "request": name,
                "× Sanic, keep-alive": f"{cost / least:.2f}",
                "µs of processor time": amount(cost),
                "spread": spread(values("requests", name, "microseconds")),
                "in a second of processor time": f"{1e6 / cost:,.0f}",
            }
        )
    return rows


def reconnect_rows():
    """Return what it takes a server to let 10,000 clients reconnect, computed."""
    return [
        {
            "10,000 clients reconnect": name,
            "seconds of processor time": f"{median('requests', name, 'microseconds') / 100:.1f}",
        }
        for name in measured("requests")
        if "new" in name and ("Sanic" in name or "websockets" in name)
    ]


def job_rows():
    """Return a row for each technique: what one client and its job cost."""
    rows = []
    for name in measured("jobs"):
        of = {key: median("jobs", name, key) for key in runs("jobs", name)[0]}
        rows.append(
            {
                "technique": name,
                "requests": f"{of['requests']:.1f}",
                "bytes": f"{of['bytes']:,.0f}",
                "ms of processor time": f"{of['milliseconds']:.2f}",
                "spread": spread(values("jobs", name, "milliseconds")),
                "ms late, median": amount(of["median"]),
                "ms late, 99\N{NO-BREAK SPACE}%": amount(of["p99"]),
            }
        )
    return rows


def delivery(technique):
    """Return the cost of one event for one client in µs, without that of publishing it."""
    costs = []
    for name in measured("rates"):
        how, _, rate = name.partition(" at ")
        if how == technique:
            alone = median("rates", f"nobody at {rate}", "microseconds")
            cost = median("rates", name, "microseconds") - alone
            costs.append((int(rate), cost / median("rates", name, "clients")))
    return costs


TECHNIQUES = {"long polling": "poll", "event stream": "stream", "WebSocket": "socket"}
INTERVAL = 1  # seconds, of short polling
# Seconds without an event after which a poll expires, a heartbeat is sent, or a ping.
SILENCE = {"long polling": 25, "event stream": 15, "WebSocket": simulation.PING}
HOLDS = 25, 60, 120, 300  # seconds, of long polling
COUNTS = "requests", "bytes", "microseconds"


def cost_of(technique, count="microseconds"):
    """Return the median cost of an event for one client, over all rates that were measured."""
    key = TECHNIQUES[technique]
    if count == "requests":
        return float(key == "poll")
    if count == "microseconds":
        return middle([cost for _, cost in delivery(key)])
    names = [name for name in measured("rates") if name.startswith(f"{key} at")]
    return middle([median("rates", name, count) for name in names])


def silent_cost_of(technique, count="microseconds"):
    """Return the cost of an empty poll, of a heartbeat, or of a ping and its pong."""
    key = TECHNIQUES.get(technique, "short")
    if count == "requests":
        return float(key in ("short", "poll"))
    return median("rates", f"{key}, silent", count)


def cost_at(technique, rate, count="microseconds", hold=SILENCE["long polling"]):
    """Return what one client costs in a second, with so many events a second, computed.

    Events come at random. After each, the time until a poll expires or a heartbeat is due begins
    again; pings are sent at an interval of their own.
    """
    silent = silent_cost_of(technique, count)
    if technique == "short polling":
        return silent / INTERVAL
    often = 1 / SILENCE["WebSocket"]
    if technique != "WebSocket":
        silence = hold if technique == "long polling" else SILENCE[technique]
        # How many silences a second end without an event.
        often = rate / math.expm1(min(100, rate * silence))
    return cost_of(technique, count) * rate + silent * often


def crossing(other="short polling", count="microseconds", hold=SILENCE["long polling"]):
    """Return the rate of events above which long polling costs more than another technique: zero
    if it does at every rate, and NaN if something was not measured."""

    def more(rate):
        return cost_at("long polling", rate, count, hold) - cost_at(other, rate, count)

    low, high = 1e-5, 1e3
    if math.isnan(more(low)):
        return math.nan
    if more(low) > 0:
        return 0
    for _ in range(60):
        rate = math.sqrt(low * high)
        low, high = (low, rate) if more(rate) > 0 else (rate, high)
    return high


def rate_rows():
    rows = []
    for name, key in TECHNIQUES.items():
        cost = cost_of(name)
        row = {"technique": name, "× event stream": f"{cost / cost_of('event stream'):.2f}"}
        row["µs for an event"] = amount(cost)
        row |= {f"at {rate} a second": amount(each) for rate, each in delivery(key)}
        row["bytes for an event"] = amount(cost_of(name, "bytes"))
        rows.append(row)
    return rows


def silent_rows():
    """Return what a client costs in an hour without an event."""
    rows = []
    for name, what in {
        "short polling": "a poll each second",
        "long polling": f"a poll that expires after {SILENCE['long polling']} s",
        "event stream": f"a heartbeat after {SILENCE['event stream']} s",
        "WebSocket": f"a ping after {SILENCE['WebSocket']} s",
    }.items():
        row = {"technique": name, "without an event": what}
        row["µs for each"] = amount(silent_cost_of(name))
        row["bytes for each"] = amount(silent_cost_of(name, "bytes"))
        requests, passed, used = (3600 * cost_at(name, 1e-9, count) for count in COUNTS)
        row |= {"requests an hour": f"{requests:,.0f}", "bytes an hour": f"{passed:,.0f}"}
        rows.append(row | {"ms an hour": amount(used / 1000)})
    return rows


def crossing_rows():
    """Return from which rate of events on long polling costs more."""
    rows = []
    others = [("short polling", SILENCE["long polling"])]
    others += [("event stream", hold) for hold in HOLDS]
    for other, hold in others:
        row = {"long polling, held for": f"{hold} s", "costs more than": other}
        for count in COUNTS:
            words = {"microseconds": "processor time"}.get(count, count)
            row[f"in {words}"] = frequency(crossing(other, count, hold))
        rows.append(row)
    return rows


def frequency(rate):
    """Return a rate of events in words."""
    if math.isnan(rate):
        return "nan"
    if not rate:
        return "at every rate"
    if rate < 0.5:
        return f"above one event in {1 / rate:.0f}\N{NO-BREAK SPACE}s"
    return f"above {rate:.1f} events a second"


def broadcast_rows():
    """Return a row for each server, with its cost in multiples of aiohttp's."""
    sizes, rows = results()["plan"]["sizes"], []
    for name in measured("broadcast"):
        last = [run[str(sizes[-1])] for run in runs("broadcast", name)]
        cost = broadcast_cost(name)
        row = {"server": name, "messages, × aiohttp": f"{broadcast_cost('aiohttp') / cost:.2f}"}
        for size in sizes:
            times = [run[str(size)]["seconds"] for run in runs("broadcast", name)]
            row[f"ms to the last of {size:,}"] = amount(middle(times) * 1000)
        row["spread"] = spread([each["seconds"] * 1000 for each in last])
        row["messages in a second of processor time"] = f"{1e6 / cost:,.0f}"
        rows.append(row)
    return rows


def broadcast_cost(name, size=None):
    """Return the processor time of one message to one client, in µs."""
    size = str(size or opened())
    return middle([run[size]["microseconds"] for run in runs("broadcast", name)])


def stalled_rows():
    """Return a row for each server, with and without stalled clients."""
    rows = []
    for name in measured("stalled"):
        found = runs("stalled", name)
        of = {
            size: {key: middle([run[size][key] for run in found]) for key in found[0][size]}
            for size in found[0]
        }
        row = {"server": name}
        for size, cost in of.items():
            row[f"× with stalled, {int(size):,}"] = f"{cost['stalled'] / cost['healthy']:.2f}"
        last = of[max(of, key=int)]
        row["processor time, ×"] = f"{last['with_stalled'] / last['microseconds']:.2f}"
        row["ms, none stalled"] = amount(last["healthy"] * 1000)
        row["ms, 1\N{NO-BREAK SPACE}% stalled"] = amount(last["stalled"] * 1000)
        row["MiB more for each stalled"] = f"{last['grown']:.2f}"
        rows.append(row)
    return rows


def publish_rows():
    """Return a row for each way to write the log, with a column for each size of a batch."""
    rows = {}
    for name in measured("log"):
        if "commit" in name:
            store, _, batch = name.rpartition(", ")
            row = rows.setdefault(store, {"events published in a second": store})
            row[batch] = f"{median('log', name, 'publishes'):,.0f}"
    return list(rows.values())


def published(batch):
    """Return how many events SQLite stores in a second, with so many in each synced commit."""
    return median("log", f"SQLite, FULL, {batch} in a commit", "publishes")


def catch_up_rows():
    names = [name for name in measured("log") if "catch-up" in name]
    least = catch_up("with")
    return [
        {
            "500 clients catch up": name.replace(", catch-up", ""),
            "× with the index": f"{median('log', name, 'catch_up') / least:.1f}",
            "seconds": amount(median("log", name, "catch_up")),
            "spread": spread(values("log", name, "catch_up")),
        }
        for name in names
    ]


def catch_up(how):
    """Return how long it takes with or without the index, in seconds."""
    return median("log", f"SQLite, catch-up {how} the index", "catch_up")


def deviation(name):
    """Return how far the memory of a contender lies from its line at most."""
    distances = [
        abs(run["base"] + run["kib"] * x - y) / y
        for run in runs("held", name)
        for x, y in run["points"]
    ]
    return max(distances, default=math.nan)


def growth_rows():
    """Return how costs grow: that of one item at the largest number, over that at the smallest."""
    rows = []
    for name in ("WebSocket: Sanic", "WebSocket: websockets", f"WebSocket: {OURS}"):
        rows.append(
            {
                "what grows": "connections",
                "cost": f"memory, {name}",
                "growth": f"{deviation(name):.1%} from a line at most",
            }
        )
    sizes = results()["plan"]["sizes"]
    for name in ("aiohttp", "notifications/broadcast.py", OURS):
        first, last = (broadcast_cost(name, size) for size in (sizes[0], sizes[-1]))
        rows.append(
            {
                "what grows": f"connections, {sizes[0]:,} to {sizes[-1]:,}",
                "cost": f"µs for a message to one client, {name}",
                "growth": f"{amount(first)} to {amount(last)}",
            }
        )
    scale = [("topics", "microseconds", "µs for a publish to one of them")]
    scale += [("events in the log", "microseconds", "µs for a publish")]
    scale += [("events in the log", "page", "µs for a page of it")]
    for of, key, words in scale:
        names = [name for name in results()["scale"] if name.endswith(of)]
        ends = [f"{amount(median('scale', name, key))}" for name in (names[0], names[-1])]
        numbers = f"{names[0].split()[0]} to {names[-1].split()[0]}"
        rows.append({"what grows": f"{of}, {numbers}", "cost": words, "growth": " to ".join(ends)})
    return rows


def kernel_kib():
    """Return the memory of the kernel for each end of a connection."""
    names = measured("held")
    return middle([median("held", name, "kernel") for name in names])


def limit_rows():
    """Return the limits of one process on this machine, the one that is met first at the top."""
    each = median("held", f"WebSocket: {OURS}", "kib") + kernel_kib()
    memory = results()["machine"]["memory_gib"] * 2**20 / each
    ping = median("pings", OURS, "microseconds")
    limits = [
        (median("scale", "1,024 open files", "held"), "1,024 open files", "measured"),
        (28_232, "ports, from one address to one port of a server", "default of Linux"),
        (memory, "memory of this machine, for WebSocket connections", "computed"),
        (1e6 / ping * simulation.PING, "one processor that does nothing but ping", "computed"),
    ]
    return [
        {"limit": name, "connections": f"{number:,.0f}", "from": source}
        for number, name, source in sorted(limits)
    ]


def handshake_cost(name):
    """Return the cost of a new connection of a contender, with TLS 1.3, in µs."""
    plain, tls = (
        median("requests", f"Sanic, new connection{kind}", "microseconds")
        for kind in ("", ", TLS 1.3")
    )
    return median("held", name, "opening") + tls - plain


def costs():
    """Return the measured costs that the simulation extends."""
    return {
        "kib": median("held", f"WebSocket: {OURS}", "kib") + kernel_kib(),
        "base_kib": median("held", f"WebSocket: {OURS}", "base"),
        "ping": median("pings", OURS, "microseconds"),
        "delivery": broadcast_cost(OURS),
        "handshake": handshake_cost(f"WebSocket: {OURS}"),
        "bytes": 150,
    }


def capacity_rows():
    """Return the costs from which the calculator of capacity computes."""
    names = [
        "long poll: long_polling/server_hardened.py",
        "event stream: server_sent_events/server.py",
        *(f"{kind}: {OURS}" for kind in ("event stream", "WebSocket")),
        "WebSocket: websockets/server_websockets.py",
        "WebSocket: websockets, compressed",
        "WebSocket: scaling_out/gateway.py",
    ]
    return [
        {
            "server": name,
            "KiB for a client": f"{median('held', name, 'kib') + kernel_kib():.1f}",
            "MiB of the empty process": f"{median('held', name, 'base') / 1024:.0f}",
            "µs for a handshake, TLS 1.3": f"{handshake_cost(name):,.0f}",
        }
        for name in names
    ]


def assumption_rows():
    cost = costs()
    rows = [
        ("clients of one gateway process", f"{simulation.PER_GATEWAY:,}", "chosen"),
        ("memory of a client", f"{cost['kib']:.1f} KiB", f"measured: {OURS}, and the kernel"),
        ("memory of an empty process", f"{cost['base_kib'] / 1024:.0f} MiB", "measured"),
        ("interval of pings", f"{simulation.PING} s", "default of Sanic and websockets"),
        ("a ping and its pong", f"{cost['ping']:.0f} µs", "measured"),
        ("an event to one client", f"{cost['delivery']:.0f} µs", "measured"),
        ("events", "one a minute for each client", "chosen"),
        ("a message", f"{cost['bytes']} bytes, and {simulation.PACKET} of headers", "chosen"),
        ("a handshake with TLS 1.3", f"{cost['handshake']:.0f} µs", "sum of measured ones"),
        ("a client gives up a handshake after", f"{simulation.TIMEOUT} s", "default of websockets"),
        ("its delay before a retry", "3 s, doubled each time, up to 90 s, jittered", "chosen"),
    ]
    return [{"assumption": a, "value": b, "from": c} for a, b, c in rows]


def simulation_rows():
    """Return what a million and ten million clients need."""
    needs = {
        "gateway processes": ("gateways", "{:,.0f}"),
        "memory, GiB": ("memory_gib", "{:,.0f}"),
        "processors busy with pings": ("ping_cores", "{:,.1f}"),
        "processors busy with events": ("event_cores", "{:,.1f}"),
        "seconds until all have a broadcast, all gateways at once": (
            "broadcast_seconds",
            "{:,.1f}",
        ),
        "clients that each other gateway takes when one fails": ("failed_handshakes", "{:,.0f}"),
        "seconds of processor time if all reconnect": ("handshake_seconds", "{:,.0f}"),
        "Mbit/s of pings and events": ("megabits", "{:,.0f}"),
    }
    found = {number: simulation.capacity(number, costs()) for number in (10**6, 10**7)}
    return [
        {"need": words}
        | {f"{number:,} clients": form.format(of[key]) for number, of in found.items()}
        for words, (key, form) in needs.items()
    ]


def storm_rows():
    """Return how long it takes until all clients of a gateway are connected again, simulated."""
    rows = []
    for clients in (
        simulation.PER_GATEWAY // 2,
        simulation.PER_GATEWAY,
        simulation.PER_GATEWAY * 2,
    ):
        for seconds in (0, 5, 30):
            row = {"clients": f"{clients:,}", "reconnect within": f"{seconds} s"}
            for backoff, words in (False, "retry at once"), (True, "retry with backoff"):
                how = simulation.storm(clients, costs()["handshake"], seconds, backoff)
                took = f"{how['seconds']:.0f} s" if how["seconds"] else "never"
                row[f"connected, {words}"] = took
                row[f"handshakes for each, {words}"] = f"{how['tried']:.1f}"
            rows.append(row)
    return rows


def check_rows():
    """Return predictions of the model beside what was measured."""
    first, second, last = results()["plan"]["sizes"]
    rows = []

    def add(what, predicted, found):
        off = f"{predicted / found - 1:+.0%}"
        rows.append(
            {"what": what, "predicted": amount(predicted), "measured": amount(found), "off": off}
        )

    for name in ("WebSocket: Sanic", f"WebSocket: {OURS}"):
        points = [
            (x, middle([run["points"][at][1] / 1024 for run in runs("held", name)]))
            for at, x in enumerate((first, second, last))
        ]
        slope, base = fitted(points[:2])
        words = f"MiB with {last:,} connections, from {first:,} and {second:,}, {name}"
        add(words, base + slope * last, points[2][1])
    for name in ("aiohttp", "notifications/broadcast.py", OURS):
        points = [
            (x, middle([run[str(x)]["seconds"] * 1000 for run in runs("broadcast", name)]))
            for x in (first, second, last)
        ]
        slope, base = fitted(points[:2])
        words = f"ms for a broadcast to {last:,}, from {first:,} and {second:,}, {name}"
        add(words, base + slope * last, points[2][1])
    return rows


def goal_rows():
    """Return each goal with what was measured."""
    kib = defaultdict(lambda: math.nan)
    kib |= {name: median("held", name, "kib") for name in measured("held")}
    cost = defaultdict(lambda: math.nan)
    cost |= {name: median("requests", name, "microseconds") for name in measured("requests")}
    kept = cost["Sanic, keep-alive"]
    best = min(
        (broadcast_cost(name) for name in measured("broadcast") if "/" in name), default=math.nan
    )
    own = kib["WebSocket: websockets/server_websockets.py"]
    goals = [
        (
            "memory of a long poll: Sanic / aiohttp",
            "≤",
            1.05,
            kib["long poll: Sanic"] / kib["long poll: aiohttp"],
        ),
        (
            "memory of a long poll: Sanic / Starlette",
            "≤",
            0.75,
            kib["long poll: Sanic"] / kib["long poll: Starlette"],
        ),
        (
            "memory of a WebSocket: websockets example / aiohttp",
            "≤",
            1.05,
            own / kib["WebSocket: aiohttp"],
        ),
        (
            "memory of a WebSocket: Sanic / aiohttp",
            "",
            None,
            kib["WebSocket: Sanic"] / kib["WebSocket: aiohttp"],
        ),
        (
            "messages of a broadcast: best example / aiohttp",
            "≥",
            0.9,
            broadcast_cost("aiohttp") / best,
        ),
        ("requests: keep-alive / new connection", "≥", 2.5, cost["Sanic, new connection"] / kept),
        (
            "requests: keep-alive / new connection, TLS 1.3",
            "≥",
            10,
            cost["Sanic, new connection, TLS 1.3"] / kept,
        ),
        (
            "memory, distance from a line",
            "≤",
            0.05,
            max((deviation(name) for name in measured("held")), default=math.nan),
        ),
        ("catch-up: with the index / without", "≥", 10, catch_up("without") / catch_up("with")),
    ]
    rows = []
    for words, sign, bound, found in goals:
        if bound is None:
            verdict = "no goal"
        else:
            met = found <= bound if sign == "≤" else found >= bound
            verdict = "met" if met else "missed"
        if math.isnan(found):
            verdict = "not measured"
        rows.append(
            {
                "goal": words,
                "is": f"{sign} {bound:g}" if sign else "–",
                "measured": f"{found:.2f}",
                "verdict": verdict,
            }
        )
    return rows


def machine_rows():
    """Return what was measured on, and with which versions."""
    of, plan = results()["machine"], results()["plan"]
    sections = {"rates": "the cost of an event", "stalled": "stalled clients"}
    rows = {
        "processor": f"{of['processor']}, {of['processors']} in use",
        "memory": f"{of['memory_gib']} GiB",
        "Linux": of["kernel"],
        "Python": of["python"],
        "packages": ", ".join(f"{name} {number}" for name, number in of["packages"].items()),
        "run": f"{plan['mode']}, each {plan['repeats']} times at most, "
        f"with up to {plan['sizes'][-1]:,} connections"
        f", {sum(results()['seconds'].values()) / 60:.0f} minutes",
    }
    for part, on in results().get("apart", {}).items():
        rows[f"measured apart: {sections.get(part, part.removeprefix('held, '))}"] = (
            f"{on['processor']}, {on['processors']} in use, Python {on['python']}, "
            f"load average {on['load']:.0f}"
            + (", at real-time priority" if on.get("realtime") else "")
        )
    return [{"what": name, "value": value} for name, value in rows.items()]


def shown(rows, words=()):
    """Return rows as a table, words to the left, and a dash where nothing was measured.

    `words` names columns that are words, also where one begins with a digit.
    """
    if not rows:
        return "| not measured |\n| --- |\n"
    head, line, *body = table(rows).splitlines(keepends=True)
    columns = list(zip(*(row.split(" | ") for row in body), strict=True))
    ends = line.strip("| \n").split(" | ")
    ends = [
        "--:"
        if end == "--:"
        and any(re.match(r"[|\s]*[-+<]?\d", cell) for cell in column)
        and name not in words
        else "---"
        for end, column, name in zip(ends, columns, rows[0], strict=True)
    ]
    return re.sub(r"\bnan\b%?", "–", "".join([head, f"| {' | '.join(ends)} |\n", *body]))


def quoted():
    """Return {name: words} of the numbers that pages quote."""
    held = {
        "long-poll": "long poll: Sanic",
        "event-stream": "event stream: Sanic",
        "websocket": "WebSocket: Sanic",
        "websockets": "WebSocket: websockets",
        "websockets-deflate": "WebSocket: websockets, compressed",
        "long-poll-example": "long poll: long_polling/server.py",
        "event-stream-example": "event stream: server_sent_events/server.py",
        "notifications-stream": f"event stream: {OURS}",
        "notifications-websocket": f"WebSocket: {OURS}",
        "gateway": "WebSocket: scaling_out/gateway.py",
    }
    kib = {f"{key}-kib": f"{median('held', name, 'kib'):.0f} KiB" for key, name in held.items()}
    visits = {
        "new-connection": "Sanic, new connection",
        "tls": "Sanic, new connection, TLS 1.3",
        "tls-resumed": "Sanic, new connection, TLS 1.3 resumed",
    }
    kept = median("requests", "Sanic, keep-alive", "microseconds")
    times = {
        f"{key}-times": f"{median('requests', name, 'microseconds') / kept:.1f}"
        for key, name in visits.items()
    }
    return (
        kib
        | times
        | {
            "kernel-kib": f"{kernel_kib():.1f} KiB",
            "connections": f"{opened():,}",
            "crossing": f"{crossing():.1f}",
            "crossing-stream": frequency(crossing("event stream", hold=120)),
            "poll-times-stream": f"{cost_of('long polling') / cost_of('event stream'):.1f}",
            "gateway-deliveries": f"{1e6 / broadcast_cost('scaling_out/gateway.py'):,.0f}",
            "handshake-us": f"{costs()['handshake']:.0f} µs",
            "reconnect-seconds": f"{10_000 * costs()['handshake'] / 1e6:.0f} s",
            "publishes": f"{published(1):,.0f}",
            "publishes-batched": f"{published(100):,.0f}",
            "catch-up-times": f"{catch_up('without') / catch_up('with'):.0f}",
            "files-held": f"{median('scale', '1,024 open files', 'held'):,.0f}",
        }
    )
