"""The measurements: tables and figures from what the benchmark recorded, and its arithmetic."""

import json
import resource
import subprocess
import sys

import pytest

from .bench import harness, load, report
from .support.bars import bars
from .support.messages import table
from .support.processes import ROOT, environment


def test_memory_for_each_held_connection(record):
    """The table of memory for each held connection is computed from the recorded runs."""
    record("measurements/held.md", table(report.held_rows()))
    rows = [
        (row["connection"], float(row["KiB each"]), f"{row['KiB each']} KiB")
        for row in report.held_rows()
    ]
    words = "; ".join(f"{name} {label}" for name, _, label in rows)
    title = "Process memory for each held connection"
    record("measurements/held.svg", bars(rows, title, f"Bars: {words}."))


def test_the_machine_is_described(record):
    """The table of the machine is computed from the recorded description."""
    makefile = (ROOT / "Makefile").read_text()
    assert "\nbench:" in makefile and "QUICK" in makefile
    record("measurements/commands.txt", "make bench QUICK=1    # three minutes\nmake bench\n")
    record("measurements/machine.md", table(report.machine_rows()))


def test_single_values_can_be_quoted(record):
    """The recorded numbers that pages quote are sections of one value each."""
    record("measurements/values.txt", report.one_value(report.single_values()))


def test_what_could_not_be_measured_is_listed(record):
    """What the harness could not measure is listed with the reason."""
    rows = [
        {"figure": f"{part}, {name}", "not reported, because": why}
        for part in report.PARTS
        for name, why in report.refused(part)
    ]
    nothing = [{"figure": "none", "not reported, because": "everything was measured"}]
    record("measurements/refused.md", table(rows or nothing))


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
    """The benchmark runs two contenders with twenty connections each, and reports both."""
    only = "long poll: asyncio.Protocol,long poll: long_polling/server.py"
    ran = bench(tmp_path, ONLY="held", CONTENDERS=only, CONNECTIONS=40)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "results.json").read_text())["held"]
    assert list(found) == only.split(",")
    for each in found.values():
        assert each.get("refused") or each["runs"][0]["points"][-1][0] == 40
