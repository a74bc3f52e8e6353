"""Measure, and write snippets/measurements/results.json: `make bench`, `make bench QUICK=1`.

ONLY=held,requests measures some parts and keeps the recorded rest; CONTENDERS=… some of a part;
CONNECTIONS=… holds fewer; RESULTS=… writes another file. On a machine that is busy with other work,
run `chrt -f 10 .venv/bin/python -m tests.bench` as root: at real-time priority.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from ..support.recorder import SNIPPETS
from . import broadcast, held, jobs, log, pings, rates, requests, scale, stalled
from .harness import Load, NotMeasured, machine, raise_file_limit

RESULTS = Path(os.environ.get("RESULTS", SNIPPETS / "measurements/results.json"))
QUICK = bool(os.environ.get("QUICK"))
MOST = int(os.environ.get("CONNECTIONS", 1_000 if QUICK else 10_000))
PLAN = {
    "mode": "quick" if QUICK else "full",
    "repeats": 1 if QUICK else 3,
    "sizes": [MOST // 10, MOST // 2, MOST],
    "window": 0.5 if QUICK else 2,  # seconds of most measurements
    "rows": 20_000 if QUICK else 100_000,  # of the log that clients catch up from
}
PARTS = {
    part.__name__.rpartition(".")[2]: part
    for part in (held, pings, requests, jobs, rates, broadcast, stalled, log, scale)
}


def rounded(value):
    """Return a result with its numbers rounded to what is significant."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def attempt(part, load, name):
    """Return what one run of a contender found; what went wrong once is tried once more."""
    try:
        return part.one(load, name, PLAN)
    except NotMeasured as reason:
        print(f"  once more: {name}: {reason}", flush=True)
        return part.one(load, name, PLAN)


def measure(part, load):
    """Run all contenders of a part in turn, again and again; return what each run found."""
    left_out = getattr(part, "FULL_ONLY", set()) if QUICK else set()
    chosen = os.environ.get("CONTENDERS", "").split(",")
    found = {
        name: {"runs": []}
        for name in part.CONTENDERS
        if (chosen == [""] or name in chosen) and name not in left_out
    }
    for _ in range(min(PLAN["repeats"], getattr(part, "REPEATS", PLAN["repeats"]))):
        for name, of_one in found.items():
            if "refused" in of_one:
                continue
            try:
                of_one["runs"].append(rounded(attempt(part, load, name)))
            except NotMeasured as reason:
                of_one["refused"] = str(reason)
                print(f"  not measured: {name}: {reason}", flush=True)
    return found


def main():
    try:
        raise_file_limit(MOST)
    except NotMeasured as reason:
        sys.exit(str(reason))
    # So that an interrupted benchmark leaves no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted"))
    wanted = os.environ.get("ONLY", ",".join(PARTS)).split(",")
    again = "ONLY" in os.environ and RESULTS.exists()
    results = json.loads(RESULTS.read_text()) if again else {}
    if results and results["plan"] != PLAN:
        sys.exit(f"ONLY keeps the rest of {RESULTS.name}, which is of another kind of run")
    for key, value in {"machine": machine(), "plan": PLAN, "seconds": {}, "apart": {}}.items():
        results.setdefault(key, value)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with Load() as load:
        for name in wanted:
            print(f"measuring: {name}", flush=True)
            began, here = time.monotonic(), machine()
            kept = results.get(name, {}) if "CONTENDERS" in os.environ else {}
            found = measure(PARTS[name], load)
            results[name] = kept | found
            seconds = round(time.monotonic() - began)
            print(f"  took {seconds} s", flush=True)
            if again:  # the rest is of another time, perhaps of another machine
                apart = [f"{name}, {of}" for of in found] if kept else [name]
                results["apart"] |= dict.fromkeys(apart, here)
            else:
                results["seconds"][name] = seconds
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
