"""The wire tap changes nothing, and reads what passes whatever way the bytes are cut."""

import random
import socket
import threading

import pytest

from ..support.hostile import reset
from ..support.messages import counts, exchanges, messages
from ..support.peer import Peer, everything
from ..support.wiretap import Event, Tap

REQUESTS = (
    b"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n\r\n"
    b'{"seconds": 1}'
    b"GET /jobs/x HTTP/1.1\r\nHost: a\r\n\r\n"
)
ANSWERS = (
    b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
)


def pieces(data, rng):
    """Cut bytes at random places, often into single bytes."""
    while data:
        cut = rng.choice([1, 1, 2, 3, 7, len(data)])
        yield data[:cut]
        data = data[cut:]


def test_forwards_every_byte_unchanged():
    """The tap forwards every byte unchanged, both ways, over fifty connections at once."""
    sent = {n: random.Random(n).randbytes(20_000 + n) for n in range(50)}

    def echo(client):
        for data in iter(lambda: client.recv(4096), b""):
            client.sendall(data)

    with Peer(echo) as peer, Tap(peer.port) as tap:
        back = {}

        def talk(n):
            with socket.create_connection(("127.0.0.1", tap.port)) as sock:
                threading.Thread(target=lambda: (sock.sendall(sent[n]), sock.shutdown(1))).start()
                back[n] = everything(sock)

        threads = [threading.Thread(target=talk, args=(n,)) for n in sent]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert back == sent
        assert tap.connections == 50
        assert tap.bytes("client") == tap.bytes("server") == sum(map(len, sent.values()))


def test_passes_a_half_close_on():
    """A client that has finished sending still gets its response through the tap."""

    def respond_at_the_end(client):
        client.sendall(everything(client).upper())

    with Peer(respond_at_the_end) as peer, Tap(peer.port) as tap:
        with socket.create_connection(("127.0.0.1", tap.port)) as sock:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            assert everything(sock) == b"QUESTION"
        tap.wait_until(lambda events: sum(event.kind == "end" for event in events) == 2)
        assert [(e.source, e.kind) for e in tap.events] == [
            ("client", "data"),
            ("client", "end"),
            ("server", "data"),
            ("server", "end"),
        ]


@pytest.mark.parametrize("side", ["client", "server"])
def test_passes_a_reset_on(side):
    """A reset by one side reaches the other as a reset, and is recorded as one."""
    felt = threading.Event()

    def serve(client):
        assert client.recv(100) == b"hello"
        if side == "server":
            return reset(client)
        client.sendall(b"welcome")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        felt.set()

    with Peer(serve) as peer, Tap(peer.port) as tap:
        with socket.create_connection(("127.0.0.1", tap.port)) as sock:
            sock.sendall(b"hello")
            if side == "server":
                with pytest.raises(ConnectionResetError):
                    sock.recv(100)
            else:
                assert sock.recv(100) == b"welcome"
                reset(sock)
                assert felt.wait(30)
        tap.wait_until(lambda events: any(event.kind == "reset" for event in events))
        assert next(e.source for e in tap.events if e.kind == "reset") == side


def test_a_dead_server_is_a_reset():
    """When no server listens behind the tap, the client is reset and not left waiting."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with Tap(unused.getsockname()[1]) as tap:
            with socket.create_connection(("127.0.0.1", tap.port)) as sock:
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)


def test_does_not_read_ahead_of_a_slow_client():
    """A client that reads nothing stops the server from sending, with and without the tap."""
    blocked = threading.Event()

    def flood(client):
        client.settimeout(1)
        try:
            for _ in range(4096):
                client.sendall(bytes(65536))
        except TimeoutError:
            blocked.set()

    with Peer(flood) as peer, Tap(peer.port) as tap:
        with socket.create_connection(("127.0.0.1", tap.port)):
            assert blocked.wait(30)


@pytest.mark.parametrize("seed", range(20))
def test_finds_the_messages_however_the_bytes_are_cut(seed):
    """The messages found are the same wherever the stream was cut into pieces."""
    rng = random.Random(seed)
    up = [Event(0, 1, "client", "data", piece) for piece in pieces(REQUESTS, rng)]
    down = [Event(0, 1, "server", "data", piece) for piece in pieces(ANSWERS, rng)]
    found = messages(up + down)
    assert [m.start_line for m in found] == [
        "POST /jobs HTTP/1.1",
        "HTTP/1.1 202 Accepted",
        "GET /jobs/x HTTP/1.1",
        "HTTP/1.1 200 OK",
    ]
    assert b"".join(m.data for m in found if m.source == "client") == REQUESTS
    assert b"".join(m.data for m in found if m.source == "server") == ANSWERS
    assert [response.body for _, response in exchanges(found)] == [b"{}", b"abcdefg"]


def test_counts_what_a_run_costs():
    """The counts are those of the connections, requests and bytes that passed."""

    def respond_twice(client):
        client.recv(65536)
        client.sendall(ANSWERS)

    with Peer(respond_twice) as peer, Tap(peer.port) as tap:
        with socket.create_connection(("127.0.0.1", tap.port)) as sock:
            sock.sendall(REQUESTS)
            everything(sock)
        assert counts(tap) == {
            "connections": 1,
            "requests": 2,
            "bytes up": len(REQUESTS),
            "bytes down": len(ANSWERS),
            "round trips": 3,
        }
