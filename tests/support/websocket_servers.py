"""The WebSocket servers of examples/, with the first message of a client of each.

Tests that hold for every server walk this table.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2

from .events import ready
from .processes import EXAMPLES
from .sockets import TEXT, RawWebSocket, frame


@dataclass(frozen=True)
class WebSocketServer:
    """One server: where its WebSocket is, and how to get in.

    `message` makes a text message of about that many bytes which the server accepts. `prepare`
    returns the headers that the server wants; `first_message` the message that it wants first, by
    which the client authenticates. Both are given the running program.
    """

    name: str
    path: str
    environment: dict = field(default_factory=dict)
    message: Callable = lambda size: "x" * size
    prepare: Callable = lambda program: {}
    first_message: Callable | None = None

    def open(self, program, **options):
        """Open a raw WebSocket to this server, which runs as `program`."""
        client = RawWebSocket(program.port, self.path, self.prepare(program), **options)
        if self.first_message:
            client.send(frame(TEXT, self.first_message(program).encode()))
        return client


def event(size):
    """Return an event as a client publishes it."""
    return '{"text": "%s"}' % ("x" * size)


def session_cookie(program):
    """Log in; return the header that has the session cookie."""
    return {"Cookie": f"session={httpx2.get(program.url).cookies['session']}"}


def token_message(program):
    """Request a token; return the message by which a client authenticates."""
    response = httpx2.post(f"{program.url}/tokens", json={"key": "alice-key"})
    return json.dumps({"token": response.json()["token"], "after": 0})


def acknowledgement(size):
    """Return an acknowledgement that is padded to a size: JSON allows white space."""
    return '{"ack": 0' + " " * size + "}"


SERVERS = [
    WebSocketServer("reliable_websockets/server.py", "/events?after=0", {"EVENT_INTERVAL": 0}),
    WebSocketServer(
        "reliable_websockets/server_websockets.py", "/events", {"EVENT_INTERVAL": 0}, event
    ),
    WebSocketServer("debugging/server.py", "/socket"),
    WebSocketServer("holding_connections/server_hardened.py", "/socket", {"HOLD": 3600}),
    WebSocketServer("holding_connections/server_websockets.py", "/"),
    WebSocketServer("load_balancing/server_hardened.py", "/socket", {"DRAIN_DELAY": 0}),
    WebSocketServer("load_balancing/server.py", "/socket"),
    WebSocketServer(
        "notifications/server.py",
        "/notifications/socket?user=ann&topic=news",
        message=acknowledgement,
    ),
    WebSocketServer("notifications/broadcast.py", "/events"),
    WebSocketServer("scaling_out/gateway.py", "/events"),
    WebSocketServer("scaling_out/server.py", "/events"),
    WebSocketServer(
        "reconnecting/server_hardened.py", "/events", {"EVENT_INTERVAL": 3600, "RATE": 1000}
    ),
    WebSocketServer("reconnecting/server.py", "/events", {"EVENT_INTERVAL": 3600}),
    WebSocketServer("security/server.py", "/socket", prepare=session_cookie),
    WebSocketServer("security/server_auth.py", "/events", first_message=token_message),
    WebSocketServer("security/server_inflating.py", "/"),
    WebSocketServer(
        "security/server_limits.py",
        "/echo",
        {"RATE": 1e9, "BURST": 10**9, "MAX_CONNECTIONS": 1000},
    ),
    WebSocketServer("websockets/server.py", "/jobs/socket"),
    WebSocketServer("websockets/server_websockets.py", "/jobs/socket"),
]

HARDENED = [
    server
    for server in SERVERS
    if "HardenedWebSocketProtocol" in (EXAMPLES / server.name).read_text()
]


# The servers of the table beyond the quick starts.
ROBUST = HARDENED + [server for server in SERVERS if server.name.endswith("_websockets.py")]


def start_server(row, start, assembled, **environment):
    """Start the server of a row by the fixture `start`, with a Redis if it needs one."""
    if row.name.startswith("scaling_out/"):
        redis = f"redis://127.0.0.1:{assembled[1]().port}"
        server = start(row.name, REDIS=redis, HEARTBEAT_INTERVAL=0.3, **environment)
        return ready(server) if row.name == "scaling_out/gateway.py" else server
    return start(row.name, **environment, **row.environment)


def websocket_servers():
    """Return the names of all servers in examples/ that accept WebSockets, wrong ones aside."""
    pattern = re.compile(r"\.websocket\(|websockets\.asyncio\.server import")
    return {
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.glob("*/*.py")
        if pattern.search(path.read_text()) and not path.name.startswith("wrong_")
    }
