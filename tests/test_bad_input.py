"""Whatever a server is sent, it answers with the right 4xx and says in JSON what was wrong."""

import http.client
import json

import httpx2
import pytest

from .support.processes import JOB_SERVERS, named

LIMITED = [name for name in JOB_SERVERS if name in named("server*.py", "REQUEST_MAX_SIZE")]


@pytest.fixture(scope="module", params=JOB_SERVERS)
def client(request, start_shared):
    """Return a client of each server there is, with a key for those that want one."""
    server = start_shared(request.param)
    headers = {"Authorization": "Bearer alice-key"}
    with httpx2.Client(base_url=server.url, headers=headers) as client:
        yield client


def problem(answer, status):
    """Check the status, and that the JSON body has it too; return what the body says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert body["status"] == status
    assert "Traceback" not in answer.text
    return body["message"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"seconds": 1', b"\xff\xfe", b"seconds=1"])
def test_malformed_json_is_400(client, body):
    """A body that is not JSON is a 400."""
    assert problem(client.post("/jobs", content=body), 400)


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
    """JSON that is not a job is a 400 that shows what a job looks like."""
    assert 'send {"seconds":' in problem(client.post("/jobs", json=body), 400)


@pytest.mark.parametrize("body", [b'{"seconds": NaN}', b'{"seconds": 1e999}'])
def test_numbers_that_are_none_are_400(client, body):
    """NaN and infinity are no length of time."""
    assert problem(client.post("/jobs", content=body), 400)


@pytest.mark.parametrize("client", LIMITED, indirect=True)
def test_a_body_over_the_limit_is_413(client):
    """A server with a limit rejects a larger body with 413, with a Content-Length and in chunks."""
    big = b'{"seconds": 1, "x": "' + b"x" * 20_000 + b'"}'
    assert "limit" in problem(client.post("/jobs", content=big), 413)
    assert "limit" in problem(client.post("/jobs", content=iter([big])), 413)
    assert "limit" in problem(client.post("/jobs", content=big[:10_001]), 413)
    assert "limit" not in problem(client.post("/jobs", content=big[:9_999]), 400)


def test_an_unknown_path_is_404(client):
    """An unknown path is a 404 in JSON."""
    assert problem(client.get("/nothing/here"), 404)


def test_an_unknown_method_is_405(client):
    """A method that a path does not know is a 405 that names those it knows."""
    answer = client.delete("/jobs")
    assert problem(answer, 405)
    assert "POST" in answer.headers["Allow"]


def test_an_unknown_token_is_404(client):
    """An unknown token is a 404, also when it is long or strange."""
    for token in "made-up", "x" * 500, "%00", "%2e%2e", "💥":
        assert problem(client.get(f"/jobs/{token}"), 404)


def test_no_http_at_all_is_400(client):
    """Bytes that are no HTTP get a 400 and an end of the connection."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
    connection.connect()
    connection.sock.sendall(b"is it done yet?\r\n\r\n")
    answer = http.client.HTTPResponse(connection.sock)
    answer.begin()
    assert answer.status == 400
    assert json.loads(answer.read())["status"] == 400
    connection.close()


def test_after_bad_input_the_server_still_serves(client):
    """A server that was sent nonsense still takes the next job."""
    client.post("/jobs", content=b"{")
    assert client.post("/jobs", json={"seconds": 0}).status_code == 202
