"""A client that meets a bad server ends with one clear line and a non-zero exit code."""

import re

import pytest

from .support.processes import EXAMPLES

CLIENTS = sorted(
    str(path.relative_to(EXAMPLES))
    for kind in ("*/client*.py", "*/client*.sh", "*/sweep.py")
    for path in EXAMPLES.glob(kind)
    # Those of other topics submit no jobs; their proofs are with their topics.
    if path.parent.name
    in {
        "job_queue",
        "long_polling",
        "server_sent_events",
        "short_polling",
        "token",
        "webhooks",
        "websockets",
    }
)
# Those that send more than one request; on a WebSocket there are no further status codes.
POLLING = [name for name in CLIENTS if not name.startswith(("webhooks/", "websockets/"))]


@pytest.fixture(params=CLIENTS)
def run_failing(request, run):
    """Return a function that runs a client and checks that it fails with one line; return that."""

    def run_failing(url):
        result = run(request.param, URL=url)
        assert result.returncode == 1 or (request.param.endswith(".sh") and result.returncode)
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stderr.strip()
        return result.stderr

    return run_failing


def test_an_unreachable_server(run_failing, port):
    """A client reports in one line that it cannot reach the server, and exits with an error."""
    run_failing(f"http://127.0.0.1:{port()}")


def test_an_invalid_url(run_failing):
    """A client whose URL is no URL reports it in one line and exits with an error."""
    run_failing("nonsense")


def test_a_server_that_responds_with_500(run_failing, canned):
    """A client whose job is rejected with 500 reports the status and exits with an error."""
    assert "500" in run_failing(canned((500, {}, "oops")).url)


@pytest.mark.parametrize(
    "response",
    [
        (200, {}, "<h1>It works!</h1>"),
        (202, {"Location": "/jobs/x"}, '{"status"'),
        (202, {"Location": "/jobs/x"}, {"status": "fine"}),
    ],
)
def test_a_server_that_is_not_a_job_server(run_failing, canned, response):
    """A client that gets something other than a job reports it and exits with an error."""
    assert re.search("not a job|not answer as", run_failing(canned(response).url))


@pytest.mark.parametrize("run_failing", POLLING, indirect=True)
def test_an_unknown_job(run_failing, canned):
    """A client whose token the server does not know stops polling and reports the 404."""
    submitted = (202, {"Location": "/jobs/x"}, {"token": "x", "status": "pending"})
    unknown = (404, {}, {"status": 404, "message": "unknown token"})
    server = canned(submitted, unknown)
    assert "404" in run_failing(server.url)
