"""Requests and handshakes: the processor time that each takes on the server."""

import tempfile
from pathlib import Path

import trustme

from .harness import NotMeasured, Server

# name: (program, path, kind of connection)
CONTENDERS = {
    "Sanic, keep-alive": ("sanic_.py", "/hello", "kept"),
    "Sanic, new connection": ("sanic_.py", "/hello", "plain"),
    "Sanic, new connection, TLS 1.3": ("sanic_.py", "/hello", "tls"),
    "Sanic, new connection, TLS 1.3 resumed": ("sanic_.py", "/hello", "resumed"),
    "Sanic, new WebSocket connection": ("sanic_.py", "/socket", "socket"),
    "websockets, new WebSocket connection": ("websockets_.py", "/", "socket"),
    "aiohttp, keep-alive": ("aiohttp_.py", "/hello", "kept"),
    "aiohttp, new connection": ("aiohttp_.py", "/hello", "plain"),
    "aiohttp, new WebSocket connection": ("aiohttp_.py", "/socket", "socket"),
    "Starlette, keep-alive": ("starlette_.py", "/hello", "kept"),
    "Starlette, new connection": ("starlette_.py", "/hello", "plain"),
    "Starlette, new WebSocket connection": ("starlette_.py", "/socket", "socket"),
    "asyncio.Protocol, keep-alive": ("protocol.py", "/hello", "kept"),
    "asyncio.Protocol, new connection": ("protocol.py", "/hello", "plain"),
}


def certificate(folder):
    """Make a certificate with an elliptic-curve key, in the files that Sanic expects."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(Path(folder) / "privkey.pem")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(Path(folder) / "fullchain.pem", append=True)
    return folder


def one(load, name, plan):
    """Send each request when the last has its response; return what one takes on the server."""
    program, path, kind = CONTENDERS[name]
    with tempfile.TemporaryDirectory() as folder:
        tls = {"CERT": certificate(folder)} if kind in ("tls", "resumed") else {}
        with Server(program, **tls) as server:
            how = {"do": "rate", "connections": 32}
            if kind != "kept":
                how = {"do": "visits", "connections": 4, "kind": kind}
            load.ask(**how, port=server.port, path=path, seconds=0.3)  # to warm up
            server.settle()
            used = server.cpu()
            reply = load.ask(**how, port=server.port, path=path, seconds=plan["window"])
            server.settle()
            used = server.cpu() - used
    if kind == "resumed" and reply["resumed"] < 0.9 * reply["count"]:
        raise NotMeasured(f"only {reply['resumed']} of {reply['count']} sessions were resumed")
    return {"microseconds": used / reply["count"] * 1e6, "count": reply["count"]}
