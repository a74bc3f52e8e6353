"""Tables from results.json: medians with their spread, ratios first."""

import json
import statistics
from functools import cache

from ..support.recorder import SNIPPETS

PARTS = ("held",)


@cache
def results():
    return json.loads((SNIPPETS / "measurements/results.json").read_text())


def values(part, name, key):
    """Return what each run of a contender found."""
    return [run[key] for run in results()[part][name]["runs"]]


def median(part, name, key):
    return statistics.median(values(part, name, key))


def measured(part):
    """Return the contenders of a part of which every run was measured."""
    return [name for name, found in results()[part].items() if "refused" not in found]


def refused(part):
    """Return [(contender, why it was not measured)]."""
    found = results()[part].items()
    return [(name, each["refused"]) for name, each in found if "refused" in each]


def spread(numbers, digits=1):
    """Return the smallest and the largest of some numbers."""
    ends = [f"{end(numbers):,.{digits}f}" for end in (min, max)]
    return " to ".join(dict.fromkeys(ends))


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


def machine_rows():
    """Return what was measured on, and with which versions."""
    of, plan = results()["machine"], results()["plan"]
    rows = {
        "processor": f"{of['processor']}, {of['processors']} in use",
        "memory": f"{of['memory_gib']} GiB",
        "Linux": of["kernel"],
        "Python": of["python"],
        "packages": ", ".join(f"{name} {number}" for name, number in of["packages"].items()),
        "run": f"{plan['mode']}, {plan['repeats']} of each, up to {plan['sizes'][-1]:,} connections"
        f", {plan['seconds'] / 60:.0f} minutes",
    }
    return [{"what": name, "value": value} for name, value in rows.items()]


def one_value(numbers):
    """Return a file with each number in a section of its own, for use in a sentence."""
    mark = "--8<-- [{}:{}]"
    return "".join(
        f"{mark.format('start', name)}\n{words}\n{mark.format('end', name)}\n"
        for name, words in numbers.items()
    )


def single_values():
    """Return {name: words} of the numbers that pages quote."""
    kib = {name: median("held", name, "kib") for name in measured("held")}
    kernel = [median("held", name, "kernel") for name in measured("held")]
    return {
        "long-poll-kib": f"{kib['long poll: Sanic']:.0f} KiB",
        "event-stream-kib": f"{kib['event stream: Sanic']:.0f} KiB",
        "websocket-kib": f"{kib['WebSocket: Sanic']:.0f} KiB",
        "websockets-kib": f"{kib['WebSocket: websockets']:.0f} KiB",
        "websockets-deflate-kib": f"{kib['WebSocket: websockets, compressed']:.0f} KiB",
        "kernel-kib": f"{statistics.median(kernel):.1f} KiB",
        "connections": f"{results()['plan']['sizes'][-1]:,}",
    }
