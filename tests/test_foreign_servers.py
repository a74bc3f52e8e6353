"""The hardened clients of jobs cope with servers and intermediaries that are legitimate but
different."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from .support.processes import named

CLIENTS = [name for name in named("client_hardened.py", "/jobs") if "load_balancing" not in name]
SUBMITTED = (202, {"Location": "/jobs/x"}, {"token": "x", "status": "pending"})
PENDING = (200, {"Retry-After": "0"}, {"token": "x", "status": "pending"})
DONE = (200, {}, {"token": "x", "status": "done", "result": 42})
STREAM = (200, {"Content-Type": "text/event-stream"}, "event: done\nid: 1\ndata: 42\n\n")
NESTED = "[" * 100_000


@pytest.fixture(params=CLIENTS)
def client(request, run):
    """Return each hardened client: (its last response, run(server, **environment))."""
    last = STREAM if request.param.startswith("server_sent_events/") else DONE
    return last, lambda server, **variables: run(request.param, URL=server.url, **variables)


def assert_done(result):
    assert result.returncode == 0, result.stderr
    assert "42" in result.stdout


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_failed_poll_is_retried(client, canned, status):
    """A poll that fails with 408, 425, 429 or 5xx, as during a restart, is retried."""
    done, run_client = client
    failed = (status, {"Retry-After": "0"}, "<h1>not now</h1>")
    server = canned(SUBMITTED, failed, done)
    assert_done(run_client(server))
    assert len(server.requests) == 3


def in_an_hour():
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    "value",
    [
        *("0", "1", "-5", "1.5", "soon", "", "٣", "Thu, 32 Jan 2026 00:00:00 GMT"),
        "Sun, 06 Nov 1994 08:49:37 GMT",  # the three forms of RFC 9110 §5.6.7
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_any_retry_after_is_bounded(client, canned, value):
    """Whatever Retry-After contains, a number, a date in the past or nonsense, the client retries
    within seconds, and does not send a flood of requests."""
    done, run_client = client
    busy = (503, {"Retry-After": value.encode().decode("latin-1")}, "busy")
    server = canned(SUBMITTED, busy, done)
    assert_done(run_client(server))
    assert len(server.requests) == 3
    waited = server.times[2] - server.times[1]
    assert waited < 5


@pytest.mark.parametrize("value", ["3600", in_an_hour()], ids=["seconds", "date"])
def test_a_long_retry_after_ends_at_the_deadline(client, canned, value):
    """A client that is told to return in an hour does not return earlier; it ends at its deadline
    with one line."""
    _, run_client = client
    server = canned(SUBMITTED, (503, {"Retry-After": value}, "busy"))
    result = run_client(server, DEADLINE=5)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert len(server.requests) == 2


@pytest.mark.parametrize("form", ["{url}/else/x?a=b", "/else/x?a=b", "//{host}/else/x", "y"])
def test_a_redirected_poll_is_followed(client, canned, port, form):
    """A poll that is redirected, with each of the five statuses in turn, is followed, to an
    absolute and to a relative Location."""
    done, run_client = client
    number = port()
    location = form.format(url=f"http://127.0.0.1:{number}", host=f"127.0.0.1:{number}")
    redirects = [(status, {"Location": location}, "") for status in (301, 302, 303, 307, 308)]
    server = canned(SUBMITTED, *redirects, done, number=number)
    assert_done(run_client(server))
    assert [request[0] for request in server.requests] == ["POST"] + ["GET"] * 6


OTHER_JSON = {
    "nested": NESTED,
    "nested in an object": '{"status": ' + NESTED,
    "NaN": "NaN",
    "null": "null",
    "a long number": "9" * 5000,
}


@pytest.mark.parametrize("body", OTHER_JSON.values(), ids=OTHER_JSON)
def test_other_json_is_reported_in_one_line(client, canned, body):
    """A response of another shape, also one that is nested too deep to be parsed, is reported in
    one line."""
    _, run_client = client
    result = run_client(canned(SUBMITTED, (200, {}, body)))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 300


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "nonsense://x"])
def test_a_proxy_that_cannot_be_used_is_named(client, canned, value):
    """A proxy in the environment that the client cannot use is reported in one line that names the
    variable."""
    done, run_client = client
    result = run_client(canned(SUBMITTED, done), ALL_PROXY=value)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "ALL_PROXY" in result.stderr
