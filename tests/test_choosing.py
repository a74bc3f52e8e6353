"""All techniques on the same job, side by side."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from .support.figures import race
from .support.frames import conversation, costs
from .support.messages import held, late, messages, stream_trace, table, trace, whole_stream

JOB = 4.5  # as it is drawn; it takes twice as many seconds, as a busy machine is late each time
SLOW = {"SECONDS": 2 * JOB, "INTERVAL": 2}
TECHNIQUES = {  # folder: name, page
    "short_polling": ("Short polling", "short-polling"),
    "long_polling": ("Long polling", "long-polling"),
    "server_sent_events": ("Server-sent events", "server-sent-events"),
    "websockets": ("WebSocket", "websockets"),
}


@pytest.fixture(scope="module")
def runs(start_shared, tap_shared, run_shared):
    """Return {folder: (its wire, what its client printed)} after a client of each has waited for
    a job, side by side."""
    wires = {
        name: tap_shared(start_shared(f"{name}/server.py"), on_data=whole_stream)
        for name in TECHNIQUES
    }
    with ThreadPoolExecutor() as beside:
        runs = {
            name: beside.submit(run_shared, f"{name}/client.py", URL=wire.url, **SLOW)
            for name, wire in wires.items()
        }
    results = {name: run.result() for name, run in runs.items()}
    for result in results.values():
        assert result.returncode == 0, result.stderr
        assert "42" in result.stdout
    return {name: (wire, results[name].stdout) for name, wire in wires.items()}


@pytest.fixture
def wires(runs):
    """Return {folder: its wire}."""
    return {name: wire for name, (wire, _) in runs.items()}


def test_the_same_job_by_every_technique(wires, record):
    """On the same job, the counts of each technique are the same in every run."""
    record(
        "choosing/costs.md",
        table(
            [
                {"technique": "[{}](../techniques/{}.md)".format(*TECHNIQUES[name])}
                | costs(wire)
                | {"late, in intervals": late(conversation(wire.events), 2 * JOB, 2)}
                for name, wire in wires.items()
            ]
        ),
    )


def test_what_each_client_prints(runs, record):
    """On the same job, the short-polling client sends five requests, four of which return
    `pending`; long polling needs one; the event stream also reports progress; the WebSocket
    confirms the submission and then sends the result."""
    printed = {name: text.splitlines() for name, (_, text) in runs.items()}
    assert printed["short_polling"] == [*["pending"] * 4, "done: 42"]
    assert printed["long_polling"] == ["done: 42"]
    assert [line[-1] for line in printed["server_sent_events"]] == [*"%%%", "2"]
    assert [json.loads(line)["status"] for line in printed["websockets"]] == ["pending", "done"]
    outputs = [f"{TECHNIQUES[name][0]}\n{text}" for name, (_, text) in runs.items()]
    record("choosing/printed.txt", "\n".join(outputs))


def test_only_short_polling_is_late(wires):
    """A technique that holds a request, a stream or a WebSocket open receives the result less
    than half an interval late; short polling receives it with its next request."""
    found = {name: late(conversation(wire.events), 2 * JOB, 2) for name, wire in wires.items()}
    assert found.pop("short_polling") == "0.5"
    assert set(found.values()) == {"0"}


def test_the_race(wires, record):
    """Drawn on one time scale: polls at an interval, a held request, a stream, a WebSocket."""
    rows = []
    for name, wire in wires.items():
        if name == "websockets":
            drawn = trace(conversation(wire.events), 2, [0, JOB], step=0.5)
        else:
            drawn = stream_trace(messages(wire.events), 2, [0, JOB], step=0.5)
        drawn = json.loads(drawn)["messages"]
        if name == "websockets":
            open_ = [(drawn[1]["at"], drawn[-1]["at"])]  # from its 101 on
        else:
            open_ = [(drawn[a]["at"], drawn[b]["at"]) for a, b in held(drawn)]
        requests = costs(wire)["requests"]
        rows.append(
            (TECHNIQUES[name][0], f"{requests} request{'s' * (requests > 1)}", open_, drawn)
        )
    record(
        "choosing/race.svg",
        race(
            rows,
            [0, JOB],
            "Four techniques on one job",
            "A job ends at four and a half seconds. Short polling sends a request each second and "
            "receives the result at five seconds, half a second late. With long polling one "
            "request is held until the job is done. With server-sent events one response stays "
            "open; it carries the progress of the job, and at the end the result. A WebSocket "
            "stays open, and the server sends a message when the job is done.",
        ),
    )
