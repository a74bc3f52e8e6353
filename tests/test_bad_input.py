"""A job server rejects bad input with the right 4xx, and states in JSON what was wrong."""

import http.client
import json
from pathlib import Path

import httpx2
import pytest

from .support.processes import JOB_SERVERS, named

LIMITED = [name for name in JOB_SERVERS if name in named("server*.py", "REQUEST_MAX_SIZE")]


@pytest.fixture(scope="module", params=JOB_SERVERS)
def client(request, start_shared):
    """Return a client of each job server, with an API key for those that need one."""
    server = start_shared(request.param)
    headers = {"Authorization": "Bearer alice-key"}
    with httpx2.Client(base_url=server.url, headers=headers) as client:
        yield client


def error_message(response, status):
    """Check the status, also in the JSON body; return the body's message."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert body["status"] == status
    assert "Traceback" not in response.text
    return body["message"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"seconds": 1', b"\xff\xfe", b"seconds=1"])
def test_malformed_json_is_400(client, body):
    """The server rejects a body that is not JSON with 400."""
    assert error_message(client.post("/jobs", content=body), 400)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "3",
        {},
        {"seconds": "3"},
        {"seconds": None},
        {"seconds": True},
        {"seconds": -1},
        {"seconds": 61},
        {"seconds": [3]},
    ],
)
def test_wrong_types_and_values_are_400(client, body):
    """The server rejects JSON that is not a job with a 400 that shows what a job looks like."""
    assert 'send {"seconds":' in error_message(client.post("/jobs", json=body), 400)


@pytest.mark.parametrize("body", [b'{"seconds": NaN}', b'{"seconds": 1e999}'])
def test_nan_and_infinity_are_400(client, body):
    """The server rejects NaN and infinity with 400."""
    assert error_message(client.post("/jobs", content=body), 400)


@pytest.mark.parametrize("client", LIMITED, indirect=True)
def test_a_body_over_the_limit_is_413(client):
    """A server with a limit rejects a larger body with 413, with a Content-Length and in chunks."""
    big = b'{"seconds": 1, "x": "' + b"x" * 20_000 + b'"}'
    assert "limit" in error_message(client.post("/jobs", content=big), 413)
    assert "limit" in error_message(client.post("/jobs", content=iter([big])), 413)
    assert "limit" in error_message(client.post("/jobs", content=big[:10_001]), 413)
    assert "limit" not in error_message(client.post("/jobs", content=big[:9_999]), 400)


def test_listens_on_the_loopback_address(client):
    """A job server listens on 127.0.0.1 and on no other address, unless HOST names one."""
    port = f":{client.base_url.port:04X}"
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    lines = [line for table in tables for line in table.splitlines()]
    fields = [line.split()[1:4] for line in lines]
    listening = [local for local, _, state in fields if local.endswith(port) and state == "0A"]
    assert set(listening) == {f"0100007F{port}"}


def test_an_unknown_path_is_404(client):
    """An unknown path is a 404 with a JSON body."""
    assert error_message(client.get("/nothing/here"), 404)


def test_an_unknown_method_is_405(client):
    """A method that a path does not allow is a 405 that lists those that it does."""
    response = client.delete("/jobs")
    assert error_message(response, 405)
    assert "POST" in response.headers["Allow"]


def test_an_unknown_token_is_404(client):
    """An unknown token is a 404, also a long one and one with escaped or non-ASCII characters."""
    for token in "made-up", "x" * 500, "%00", "%2e%2e", "💥":
        assert error_message(client.get(f"/jobs/{token}"), 404)


def test_bytes_that_are_not_http_are_400(client):
    """The server rejects bytes that are not HTTP with 400 and closes the connection."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
    connection.connect()
    connection.sock.sendall(b"is it done yet?\r\n\r\n")
    response = http.client.HTTPResponse(connection.sock)
    response.begin()
    assert response.status == 400
    assert json.loads(response.read())["status"] == 400
    assert connection.sock.recv(1) == b""
    connection.close()


def test_after_bad_input_the_server_accepts_a_job(client):
    """After a malformed body the server still accepts the next job."""
    client.post("/jobs", content=b"{")
    assert client.post("/jobs", json={"seconds": 0}).status_code == 202
