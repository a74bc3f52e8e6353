"""All techniques on the same job, side by side."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from .support.frames import conversation, costs
from .support.messages import table
from .support.processes import EXAMPLES

# Those that are there: name, folder.
TECHNIQUES = [
    (name, folder)
    for name, folder in [
        ("[Short polling](../techniques/short-polling.md)", "short_polling"),
        ("[Long polling](../techniques/long-polling.md)", "long_polling"),
        ("[Server-sent events](../techniques/server-sent-events.md)", "server_sent_events"),
        ("[WebSocket](../techniques/websockets.md)", "websocket"),
    ]
    if (EXAMPLES / folder / "client.py").exists()
]


@pytest.fixture(scope="module")
def race(start_shared, tap_shared, run_shared):
    """Return {technique: its wire} after all have waited for a job of 4.5 s, side by side."""
    wires = {name: tap_shared(start_shared(f"{folder}/server.py")) for name, folder in TECHNIQUES}
    with ThreadPoolExecutor() as beside:
        runs = [
            beside.submit(run_shared, f"{folder}/client.py", URL=wires[name].url, SECONDS=4.5)
            for name, folder in TECHNIQUES
        ]
    for run in runs:
        assert run.result().returncode == 0, run.result().stderr
        assert "42" in run.result().stdout
    return wires


def test_the_same_job_by_every_technique(race, record):
    """On the same job, each technique has costs of its own, the same in every run."""
    rows = []
    for name, wire in race.items():
        found = conversation(wire.events)
        late = int(((found[-1].at - found[0].at) / 4.5 - 1) * 10) / 10
        rows.append({"technique": name} | costs(wire) | {"late, in job lengths": f"{late:g}"})
    record("choose/costs.md", table(rows))
