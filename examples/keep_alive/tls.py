# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1", "trustme==1.2.1"]
# ///
"""The same over TLS, with a certificate authority made on the spot.

Writes ca.pem, the certificate that clients are to trust, into the
folder that it is started in. All keys are new at each start.

- Run: `uv run tls.py`
- or: `pip install sanic==25.12.1 trustme==1.2.1 && python tls.py`
- Try: clients with SSL_CERT_FILE=ca.pem URL=https://localhost:8000
- Source: Persistence, RFC 9112 §9.3; the handshake, RFC 8446 §2
"""

import itertools
import os
import ssl

import trustme
from sanic import Blueprint, Sanic, json

NAME = os.environ.get("NAME", "localhost")  # that clients will use

bp = Blueprint("keep_alive_tls")
numbers = itertools.count(1)


@bp.get("/")
async def which(request):
    """Say which connection this is, and which request on it."""
    here = request.conn_info.ctx
    if not hasattr(here, "number"):
        here.number, here.requests = next(numbers), 0
    here.requests += 1
    return json({"connection": here.number, "request": here.requests})


# --8<-- [start:tls]
def certified(name):
    """Return a TLS context for a name, signed by a new authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context
# --8<-- [end:tls]


if __name__ == "__main__":
    app = Sanic("keep_alive_tls")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.blueprint(bp)
    app.run(
        port=int(os.environ.get("PORT", 8000)),
        ssl=certified(NAME),
        single_process=True,
    )
