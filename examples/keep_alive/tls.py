# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1", "trustme==1.2.1"]
# ///
"""The same server over TLS, with a certificate authority of its own.

Writes ca.pem, the certificate that clients must trust, into the
current folder. All keys are new at each start.

- Run: `uv run tls.py`
- or: `pip install sanic==25.12.1 trustme==1.2.1 && python tls.py`
- Try: clients with SSL_CERT_FILE=ca.pem URL=https://localhost:8000
- Source: Persistence, RFC 9112 §9.3; the handshake, RFC 8446 §2
"""

import itertools
import os
import ssl

import trustme
from sanic import Request, Sanic, json

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
NAME = os.environ.get("NAME", "localhost")  # the host name in URL


# --8<-- [start:SafeRequest]
class SafeRequest(Request):
    """A request that no client can turn into a traceback or a leak."""

    def __init__(self, url_bytes, *args, method, **kwargs):
        # Sanic reports an invalid target by means of a request with
        # the method NONE and the same target, and fails on it again.
        if method == "NONE":
            url_bytes = b"*"
        super().__init__(url_bytes, *args, method=method, **kwargs)
        # No response here depends on Accept, and Sanic responds with
        # 500 to an Accept that it cannot parse.
        self.headers.popall("accept", None)

    async def respond(self, *args, **kwargs):
        # Sanic waits without a limit for the rest of a body that was
        # not read to its end. Close the connection instead.
        if self.stream.request_body:
            self.stream.request_body = None
            self.stream.keep_alive = False
        return await super().respond(*args, **kwargs)
# --8<-- [end:SafeRequest]


app = Sanic("keep_alive_tls", request_class=SafeRequest)
connection_numbers = itertools.count(1)


@app.get("/")
async def count(request):
    """Return the connection's number and its request count."""
    connection = request.conn_info.ctx
    if not hasattr(connection, "number"):
        connection.number = next(connection_numbers)
        connection.requests = 0
    connection.requests += 1
    number, requests = connection.number, connection.requests
    return json({"connection": number, "request": requests})


# --8<-- [start:tls]
def create_tls_context(name):
    """Return a TLS context for a host name, signed by a new CA."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context
# --8<-- [end:tls]


if __name__ == "__main__":
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.run(
        host=HOST,
        port=PORT,
        ssl=create_tls_context(NAME),
        single_process=True,
    )
