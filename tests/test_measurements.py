"""The measurements: tables and figures from what the benchmark recorded, and its arithmetic."""

import json
import re
import resource
import subprocess
import sys

import pytest

from .bench import harness, held, load, report, simulation
from .support.bars import bars
from .support.curves import curves, decades
from .support.messages import single_values
from .support.processes import ROOT, environment


def test_memory_for_each_held_connection(record):
    """The table and the figure of memory for each held connection are computed from the recorded
    runs."""
    rows = report.held_rows()
    record("measurements/held.md", report.shown(rows))
    lengths = [
        (row["connection"], float(row["KiB each"]), f"{row['KiB each']} KiB")
        for row in rows
        if "/" not in row["connection"]
    ]
    words = "; ".join(f"{name} {label}" for name, _, label in lengths)
    title = "Process memory for each held connection"
    record("measurements/held.svg", bars(lengths, title, f"Bars: {words}."))


def test_cost_of_a_ping(record):
    """The table of the cost of pings is computed from the recorded runs."""
    record("measurements/pings.md", report.shown(report.ping_rows()))


def test_cost_of_a_request(record):
    """The tables of the cost of a request, and of reconnecting, are computed from the recorded
    runs."""
    record("measurements/requests.md", report.shown(report.request_rows()))
    record("measurements/reconnect.md", report.shown(report.reconnect_rows()))


def test_the_same_job_by_every_technique(record):
    """The table of the same job for 500 clients is computed from the recorded runs."""
    record("measurements/jobs.md", report.shown(report.job_rows()))


def test_cost_of_an_event(record):
    """The tables and the figure of the cost of an event, and the rates at which long polling costs
    as much as short polling or an event stream, are computed from the recorded runs."""
    record("measurements/rates.md", report.shown(report.rate_rows()))
    record("measurements/silent.md", report.shown(report.silent_rows()))
    record("measurements/crossings.md", report.shown(report.crossing_rows()))
    points = [
        (rate, cost * rate)
        for technique in report.TECHNIQUES.values()
        for rate, cost in report.delivery(technique)
    ]
    curve = {
        name: lambda x, name=name: report.cost_at(name, x)
        for name in ("short polling", "long polling", "event stream", "WebSocket")
    }
    curve["long polling, 120 s"] = lambda x: report.cost_at("long polling", x, hold=120)
    ends = [each(x) for each in curve.values() for x in (0.001, 100)]
    axes = (
        ("events a second for each client", -3, 2),
        ("µs a second, for each client", *decades(ends)),
    )
    stream, short = report.crossing("event stream", hold=120), report.crossing()
    crossings = [
        (x, curve[name](x), report.frequency(x).replace("above ", ""))
        for x, name in ((stream, "event stream"), (short, "short polling"))
        if x
    ]
    words = " and ".join(f"at {words}" for *_, words in crossings)
    description = (
        "Curves of the processor time of one client over the rate of its events, on logarithmic "
        "axes. Long polling crosses the event stream, if polls are held for 120 s, and short "
        f"polling: {words}. With a hold of 25 s it lies above the event stream at every rate."
    )
    title = "Processor time of a client by the rate of events"
    series = [
        ("held 120 s", each, "formula other") if "120" in name else (name, each, "formula")
        for name, each in curve.items()
    ]
    record("measurements/rates.svg", curves(series, points, crossings, axes, title, description))


def test_long_polling_costs_more_than_a_stream_at_every_rate():
    """With a hold of 25 s, long polling costs more than an event stream at every rate of events:
    in requests, in bytes and in processor time."""
    for count in report.COUNTS:
        assert report.crossing("event stream", count) == 0, count
        for power in range(-50, 31):
            cost = [
                report.cost_at(name, 10 ** (power / 10), count)
                for name in ("event stream", "long polling")
            ]
            assert cost[0] < cost[1], (count, power)


def test_the_cost_of_a_silent_client():
    """In the model, the cost of a client without events is that of its polls, heartbeats or pings,
    and that of one with many events is theirs, polls at an interval apart."""
    for name, silence in report.SILENCE.items():
        silent, event = report.silent_cost_of(name), report.cost_of(name)
        assert report.cost_at(name, 1e-9) == pytest.approx(silent / silence, 1e-3)
        assert report.cost_at(name, 1e3) == pytest.approx(event * 1e3, 1e-2)
    assert report.cost_at("short polling", 1e3) == report.silent_cost_of("short polling")


def test_time_of_a_broadcast(record):
    """The tables of broadcasts, with and without stalled clients, are computed from the recorded
    runs."""
    record("measurements/broadcast.md", report.shown(report.broadcast_rows()))
    record("measurements/stalled.md", report.shown(report.stalled_rows()))


def test_cost_of_the_log(record):
    """The tables of the log, of publishing and of catching up, are computed from the recorded
    runs."""
    record("measurements/publish.md", report.shown(report.publish_rows()))
    record("measurements/catch_up.md", report.shown(report.catch_up_rows()))


def test_growth_and_limits(record):
    """The tables of growth, and of the limits of one process, are computed from the recorded
    runs."""
    record("measurements/growth.md", report.shown(report.growth_rows()))
    record("measurements/limits.md", report.shown(report.limit_rows()))


def test_millions_of_clients(record):
    """The costs for a million and ten million clients are computed from measured costs, by
    assumptions that are listed, and the same model is compared with measured points."""
    record("measurements/assumptions.md", report.shown(report.assumption_rows(), ["value"]))
    record("measurements/simulation.md", report.shown(report.simulation_rows()))
    record("measurements/storm.md", report.shown(report.storm_rows()))
    record("measurements/check.md", report.shown(report.check_rows()))
    record("measurements/capacity.md", report.shown(report.capacity_rows()))


def test_goals(record):
    """Each goal stands in the table with the recorded ratio, and with whether it is met."""
    record("measurements/goals.md", report.shown(report.goal_rows()))


def test_the_machine_is_described(record):
    """The table of the machine is computed from the recorded description."""
    record("measurements/machine.md", report.shown(report.machine_rows(), ["value"]))
    targets = re.findall(r"(?m)^bench:", (ROOT / "Makefile").read_text())
    assert targets
    record("measurements/commands.txt", "make bench QUICK=1    # three minutes\nmake bench\n")


def test_single_values_can_be_quoted(record):
    """The recorded numbers that pages quote are sections of one value each."""
    record("measurements/values.txt", single_values(report.quoted()))


def test_what_could_not_be_measured_is_listed(record):
    """What the harness could not measure is listed with the reason."""
    rows = [
        {"figure": f"{part}, {name}", "not reported, because": why}
        for part in report.PARTS
        for name, why in report.refused(part)
    ]
    nothing = [{"figure": "none", "not reported, because": "everything was measured"}]
    record("measurements/refused.md", report.shown(rows or nothing))


def test_what_was_refused_is_a_dash(monkeypatch):
    """If a part could not be measured, its tables state it, and others have a dash for it."""
    rows = [getattr(report, name) for name in dir(report) if name.endswith("_rows")]
    rows.remove(report.storm_rows)
    recorded = report.results()
    for part in report.PARTS:
        nothing = {name: {"refused": "for a test"} for name in recorded[part]}
        monkeypatch.setattr(
            report, "results", lambda nothing=nothing, part=part: recorded | {part: nothing}
        )
        tables = [report.shown(of()) for of in rows]
        assert any("–" in each or "not measured" in each for each in tables), part
        assert not any(re.search(r"\bnan\b", each) for each in tables), part
        report.quoted()


# The benchmark itself


def test_slope_and_intercept():
    """The memory of a connection is the slope of a line through the measured points, and that of
    the empty process is its intercept."""
    slope, base = harness.fitted([[1_000, 30_000], [5_000, 70_000], [10_000, 120_000]])
    assert (round(slope, 6), round(base)) == (10, 20_000)


def test_a_saturated_generator_is_refused():
    """The harness refuses what it measured while the load generator was the bottleneck."""
    assert harness.unsaturated({"busy": 0.5})
    with pytest.raises(harness.NotMeasured, match="saturated"):
        harness.unsaturated({"busy": 0.99})


def test_polls_that_end_are_refused(monkeypatch):
    """The harness refuses the memory of held polls if some got a response meanwhile."""
    short = ("poll", "holding_connections/server.py", "/poll", {"HOLD": 0.1})
    monkeypatch.setitem(held.CONTENDERS, "short", short)
    with harness.Load() as generator:
        with pytest.raises(harness.NotMeasured, match="20 polls answered"):
            held.one(generator, "short", {"sizes": [5, 10, 20], "window": 0.5})


def test_frames_are_split_as_they_arrive():
    """The load generator reads frames of all three lengths, also in pieces."""
    for size in 5, 200, 70_000:
        whole = load.frame(b"x" * size)
        unmasked = bytearray(whole)
        head = len(whole) - size - 4
        del unmasked[head : head + 4]
        unmasked[1] &= 0x7F
        data = bytes(unmasked)
        assert load.frames(data + data[:1]) == ([(1, b"x" * size)], data[:1])
        assert load.frames(data[:-1]) == ([], data[:-1])


def test_a_queue_of_handshakes():
    """In the simulation, handshakes that take less time than the clients wait are all made once;
    where they take longer, clients that retry at once never all connect, and those with backoff
    do."""
    calm = simulation.storm(1_000, 1_000, spread=5)
    assert calm["tried"] == 1 and 4.9 < calm["seconds"] < 5.1
    assert simulation.storm(20_000, 1_000, spread=0, backoff=False)["seconds"] is None
    crowded = simulation.storm(20_000, 1_000, spread=0)
    assert crowded["seconds"] > 20 and crowded["tried"] > 1


def test_the_model_is_linear():
    """In the model, ten times as many clients need ten times as many gateways, and as much memory
    as they and their clients take together."""
    cost = {"kib": 10, "base_kib": 20_000, "ping": 50, "delivery": 50, "handshake": 500}
    small, large = (simulation.capacity(n, cost | {"bytes": 100}) for n in (10**6, 10**7))
    assert (small["gateways"], large["gateways"]) == (50, 500)
    assert small["memory_gib"] * 2**20 == 50 * 20_000 + 10**6 * 10
    assert small["broadcast_seconds"] == large["broadcast_seconds"] == 1


def bench(folder, **variables):
    """Run the benchmark into another folder; return the process."""
    return subprocess.run(
        [sys.executable, "-m", "tests.bench"],
        cwd=ROOT,
        env=environment(QUICK=1, RESULTS=folder / "results.json", **variables),
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_too_few_files_are_refused(tmp_path):
    """With a hard limit below what it needs, the benchmark measures nothing and names the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    short = f"ulimit -Hn {hard}; exec '{sys.executable}' -m tests.bench"
    env = environment(QUICK=1, CONNECTIONS=hard, RESULTS=tmp_path / "results.json")
    ran = subprocess.run(["bash", "-c", short], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ran.returncode == 1
    assert f"the hard limit is {hard:,}" in ran.stderr
    assert not (tmp_path / "results.json").exists()


def test_a_very_small_run(tmp_path):
    """The benchmark measures two contenders with 4, 20 and 40 connections, one of them an
    example of this site."""
    only = "long poll: asyncio.Protocol,long poll: long_polling/server.py"
    ran = bench(tmp_path, ONLY="held", CONTENDERS=only, CONNECTIONS=40)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "results.json").read_text())["held"]
    assert list(found) == only.split(",")
    for each in found.values():
        assert [number for number, _ in each["runs"][0]["points"]] == [4, 20, 40]
