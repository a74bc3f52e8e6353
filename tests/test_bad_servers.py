"""Whatever a client is told, it ends with one clear line and a non-zero exit."""

import re

import pytest

from .support.processes import EXAMPLES

CLIENTS = sorted(
    str(path.relative_to(EXAMPLES))
    for kind in ("*/client*.py", "*/client*.sh", "*/sweep.py")
    for path in EXAMPLES.glob(kind)
    # Those of other rooms hand in no jobs; their proofs are with their rooms.
    if path.parent.name
    in {"token", "short_polling", "long_polling", "server_sent_events", "websockets"}
)
# Those that ask more than once; on a WebSocket that is no matter of status codes.
ASKING = [name for name in CLIENTS if not name.startswith("websockets/")]


@pytest.fixture(params=CLIENTS)
def ends_badly(request, run, monkeypatch):
    """Return a function that runs a client and checks how it ends."""

    def ends_badly(url):
        result = run(request.param, URL=url)
        assert result.returncode != 0
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stderr.strip()
        return result.stderr

    return ends_badly


def test_a_dead_server(ends_badly, port):
    """A client told to ask where nobody listens says so and exits with an error."""
    ends_badly(f"http://127.0.0.1:{port()}")


def test_an_address_that_is_none(ends_badly):
    """A client given no address at all says so and exits with an error."""
    ends_badly("nonsense")


def test_a_server_that_answers_500(ends_badly, canned):
    """A client that gets a 500 for its job says so and exits with an error."""
    assert "500" in ends_badly(canned((500, {}, "oops")).url)


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, "<h1>It works!</h1>"),
        (202, {"Location": "/jobs/x"}, '{"status"'),
        (202, {"Location": "/jobs/x"}, {"status": "fine"}),
    ],
)
def test_a_server_that_sends_nonsense(ends_badly, canned, answer):
    """A client that gets something other than a job says so and exits with an error."""
    assert re.search("not a job|not answer as", ends_badly(canned(answer).url))


@pytest.mark.parametrize("ends_badly", ASKING, indirect=True)
def test_a_job_that_is_gone(ends_badly, canned):
    """A client whose token the server no longer knows stops asking and says so."""
    submitted = (202, {"Location": "/jobs/x"}, {"token": "x", "status": "pending"})
    gone = (404, {}, {"status": 404, "message": "no job has this token"})
    server = canned(submitted, gone)
    assert "404" in ends_badly(server.url)
