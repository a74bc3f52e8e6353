"""How many hostile and foreign cases each program meets in the suite."""

import re
import subprocess
import sys
from collections import Counter

from ..support.messages import table
from ..support.processes import ROOT, environment

# Each case is a test, whose parameters name the program.
MODULES = {
    "test_bad_input": "bad input",
    "test_hostile_http": "hostile requests",
    "test_hostile_websockets": "hostile WebSocket clients",
    "test_websocket_conformance": "invalid and unusual frames",
    "test_foreign_servers": "foreign servers",
    "test_bad_servers": "bad servers",
}


def test_the_cases_of_each_program_are_counted(record):
    """The table of cases counts, for each program, the tests of the suite that attack it or
    confront it with a foreign peer."""
    files = [f"tests/{module}.py" for module in MODULES]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-n0", *files]
    listed = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    counts = Counter()
    for line in listed.stdout.splitlines():
        if found := re.match(r"tests/(\w+)\.py::\w+\[.*?(\w+/[\w.]+\.(?:py|sh|html))\b", line):
            counts[found[2], MODULES[found[1]]] += 1
    programs = sorted({program for program, _ in counts})
    assert len(programs) > 30
    rows = [
        {"program": f"`{program}`"}
        | {kind: counts[program, kind] or "–" for kind in MODULES.values()}
        for program in programs
    ]
    record("proofs/cases.md", table(rows))
