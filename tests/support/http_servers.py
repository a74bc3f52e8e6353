"""The HTTP servers of examples/: how to start each, and what each accepts by POST.

Tests that hold for every server walk these tables.
"""

import base64
import hmac
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from .events import ready
from .processes import EXAMPLES, ROOT, TIMEOUT, Program, environment
from .websocket_servers import session_cookie

CREATED = re.compile(r"(?m)^ *(?:(?:app|server) = (?:Sanic|\w*Server)|with Server)\(")
SITE = "site/server.py"


def http_servers():
    """Return the names of all servers of HTTP in examples/, wrong ones aside."""
    return sorted(
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.glob("*/*.py")
        if CREATED.search(path.read_text()) and not path.name.startswith("wrong_")
    )


SERVERS = http_servers()
# Those with the request class that no client can turn into a traceback.
HARDENED = [name for name in SERVERS if "request_class=" in (EXAMPLES / name).read_text()]
QUICK_STARTS = [name for name in SERVERS if name not in HARDENED]


class Starter:
    """Starts each server by the fixture `start`, with a Redis or a site if it needs one."""

    def __init__(self, start, assembled, folder, port):
        self.start, self.assembled, self.folder, self.port = start, assembled, folder, port
        self.redis = None
        self.site = None

    def __call__(self, name, **variables):
        if name == SITE:
            return self.start_site(**variables)
        if "REDIS" in (EXAMPLES / name).read_text():
            self.redis = self.redis or self.assembled[1]()
            variables["REDIS"] = f"redis://127.0.0.1:{self.redis.port}"
        server = self.start(name, **variables)
        return ready(server) if name == "scaling_out/gateway.py" else server

    def start_site(self, **variables):
        """Start the server of the site, which is a module, with a page."""
        self.stop()
        for name in "index.html", "404.html":
            (self.folder / name).write_text(f"<title>{name}</title>")
        command = [sys.executable, "-m", "examples.site.server"]
        options = variables | {"PORT": (number := self.port()), "SITE": self.folder}
        path = f"{ROOT}:{variables.get('PYTHONPATH', '')}"
        self.site = Program(command, ROOT, environment(**options | {"PYTHONPATH": path}), number)
        return self.site.wait_for("Open http")

    def stop(self):
        """Stop what the fixture `start` does not."""
        if self.site:
            self.site.stop()
        self.site = None


def connection(server):
    """Return a connection to a server, over TLS if it wants that."""
    client = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
    if not (server.folder / "ca.pem").exists():
        return client
    context = ssl.create_default_context(cafile=server.folder / "ca.pem")
    return context.wrap_socket(client, server_hostname="localhost")


@dataclass(frozen=True)
class Post:
    """A resource that accepts a POST.

    `body`: one that it accepts, with the field first that is to be replaced; None if it reads none.
    `prepare` returns the headers that the server wants, given the running program and a body.
    `accepted`: the statuses of such a request, `refused`: those of others.
    """

    name: str
    path: str
    body: object
    prepare: Callable = lambda program, body: {}
    accepted: tuple = (200, 201, 202, 204)
    refused: tuple = (400,)

    def rejected(self, body):
        """Return the statuses of a request with another body."""
        statuses = self.accepted if self.body is None else self.refused
        return {*statuses, 413} if len(body) > 9_900 else {*statuses}

    def honest(self):
        """Return the body that the resource accepts."""
        return b"" if self.body is None else json.dumps(self.body).encode()

    def with_value(self, value):
        """Return the body with this text in place of the value of its first field."""
        if not isinstance(self.body, dict):
            return value.encode()
        first = next(iter(self.body))
        return json.dumps(self.body | {first: "VALUE"}).replace('"VALUE"', value).encode()


def api_key(program, body):
    """Return the header with the key that the hardened job servers accept."""
    return {"Authorization": "Bearer alice-key"}


def user_key(program, body):
    """Return the header with the key that the hardened receiver accepts from its users."""
    return {"Authorization": "Bearer report-key"}


def session(program, body):
    """Log in; return the header that has the session cookie."""
    return session_cookie(program)


def signature(program, body):
    """Return the headers of a webhook that is signed with the secret of the examples."""
    fields = ["msg_1", str(int(time.time()))]
    key = base64.b64decode("ZXhhbXBsZSBzZWNyZXQsIDI0IGJ5dGVz")
    digest = hmac.digest(key, ".".join(fields).encode() + b"." + body, "sha256")
    names = "webhook-id", "webhook-timestamp", "webhook-signature"
    return dict(zip(names, [*fields, f"v1,{base64.b64encode(digest).decode()}"], strict=True))


JOB, TEXT = {"seconds": 0}, {"text": "hello"}
EVENT = {"data": {"token": "x", "sequence": 1, "status": "done"}, "type": "job.done"}
POSTS = [
    Post("holding_connections/server.py", "/release", None),
    Post("holding_connections/server_hardened.py", "/release", None),
    Post("holding_connections/server_threads.py", "/release", None),
    Post("job_queue/redis_server.py", "/jobs", JOB),
    Post("job_queue/server.py", "/jobs", JOB),
    Post("job_queue/server_hardened.py", "/jobs", JOB, api_key),
    Post("keep_alive/server_impatient.py", "/", None),
    Post("load_balancing/server_hardened.py", "/jobs", JOB),
    Post("long_polling/feed_server.py", "/messages", TEXT),
    Post("long_polling/server.py", "/jobs", JOB),
    Post("long_polling/server_hardened.py", "/jobs", JOB, api_key),
    Post("notifications/broadcast.py", "/events", TEXT),
    Post("notifications/server.py", "/topics/news", TEXT),
    Post("notifications/server_small.py", "/topics/news", TEXT),
    Post("reconnecting/server.py", "/orders", None),
    Post("reconnecting/server_hardened.py", "/orders", None),
    Post("reliable_websockets/server.py", "/events", TEXT),
    Post("scaling_out/gateway.py", "/events", TEXT),
    Post("scaling_out/gateway.py", "/jobs", TEXT),
    Post("scaling_out/server.py", "/events", TEXT),
    Post("security/server.py", "/jobs", "hello", session),
    Post("security/server_auth.py", "/tokens", {"key": "alice-key"}, refused=(400, 401)),
    Post(
        "security/server_auth.py", "/tickets", {"token": "x"}, accepted=(401,), refused=(400, 401)
    ),
    Post("server_sent_events/board.py", "/notices", None, accepted=(200, 400)),  # any text
    Post("server_sent_events/server.py", "/jobs", JOB),
    Post("server_sent_events/server_hardened.py", "/jobs", JOB, api_key),
    Post("short_polling/server.py", "/jobs", JOB),
    Post("short_polling/server_hardened.py", "/jobs", JOB, api_key),
    Post("token/server.py", "/jobs", JOB),
    Post("token/server_hardened.py", "/jobs", JOB, api_key),
    Post("webhooks/receiver.py", "/webhooks", None, accepted=(400,)),  # it is not signed
    Post("webhooks/receiver_hardened.py", "/webhooks", EVENT, signature),
    Post("webhooks/receiver_hardened.py", "/reports", None, user_key, (502,)),
    Post("webhooks/server.py", "/jobs", JOB),
    Post("webhooks/server_hardened.py", "/jobs", JOB, api_key),
    Post("webhooks/server_hardened.py", "/messages/x/retry", None, api_key, (404,)),
]


def post(server, row, body):
    """Return a request of a resource, as bytes."""
    head = f"POST {row.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for name, text in row.prepare(server, body).items():
        head += f"{name}: {text}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
