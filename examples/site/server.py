# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""This site, with its examples live: what `make serve` runs.

Serves the built pages, and mounts the very handlers that the pages
print, each under a prefix of its own. Files are compressed, carry an
entity tag by which a browser revalidates what it has, and can be
resumed by a range of bytes.

- Run: `make serve`
- Source: Blueprints, https://sanic.dev/en/guide/best-practices/blueprints.html
- Source: entity tags, RFC 9110 §8.8.3 and §13.1.2
- Source: ranges of bytes, RFC 9110 §14
"""

import asyncio
import gzip
import mimetypes
import os
import re
import socket
import sys
from functools import lru_cache
from hashlib import sha256
from html import unescape
from pathlib import Path

from sanic import Sanic, json, raw, redirect

from examples.keep_alive.server import bp as keep_alive
from examples.long_polling.server import MAX_WAIT
from examples.long_polling.server import bp as long_polling
from examples.security.server import (
    HardenedWebSocketProtocol,
    SafeRequest,
)
from examples.server_sent_events.server import bp as server_sent_events
from examples.short_polling.server import bp as short_polling
from examples.token.server import bp as token
from examples.websockets.server import bp as websockets

SITE = Path(os.environ.get("SITE", "site")).resolve()
PORT = int(os.environ.get("PORT", 8000))

# Our own log line is enough; warnings and errors still show.
app = Sanic(
    "site", configure_logging=False, request_class=SafeRequest
)
app.config.FALLBACK_ERROR_FORMAT = "json"
app.config.REQUEST_MAX_SIZE = 10_000  # bytes
app.config.WEBSOCKET_MAX_SIZE = 10_000  # bytes
app.config.RESPONSE_TIMEOUT = MAX_WAIT + 5  # seconds; see long polling

# --8<-- [start:mount]
app.blueprint(token, url_prefix="/live/token")
app.blueprint(short_polling, url_prefix="/live/short_polling")
app.blueprint(server_sent_events, url_prefix="/live/server_sent_events")
app.blueprint(websockets, url_prefix="/live/websockets")
app.blueprint(long_polling, url_prefix="/live/long_polling")
app.blueprint(
    # The path with its slash, which page() would serve otherwise.
    keep_alive,
    url_prefix="/live/keep_alive",
    strict_slashes=True,
)


@app.get("/assets/live.json")
async def live(request):
    """Tell the panels that there is a server to talk to.

    The built site has a file of this name with the opposite.
    """
    return json({"live": True})
# --8<-- [end:mount]


@app.route("/", methods=["GET", "HEAD"], name="home")
@app.route("/<path:path>", methods=["GET", "HEAD"])
async def page(request, path=""):
    """Serve a file of the site; a folder by its index; else 404."""
    target = (SITE / path).resolve()
    if target.is_relative_to(SITE) and target.is_dir():
        if path and not path.endswith("/"):
            return redirect(f"{request.path}/", status=301)
        target /= "index.html"
    if not target.is_relative_to(SITE) or not target.is_file():
        missing = await load(SITE / "404.html")
        return raw(missing.body, 404, missing.headers)
    return respond(request, await load(target))


# Names that contain a hash of the content, as the theme makes them.
HASHED = re.compile(r"\.[0-9a-f]{8}\.min\.(js|css)$")
YEAR = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"  # is kept, and revalidated before each use
POLICY = re.compile(
    rb'<meta http-equiv="Content-Security-Policy" content="([^"]*)"'
)
# Programs and recordings are shown as text, not downloaded.
AS_TEXT = {".py", ".sh", ".txt", ".cfg", ".conf"}


class File:
    """A file in memory, with its headers, plain and compressed."""

    def __init__(self, path):
        self.body = path.read_bytes()
        self.compressed = gzip.compress(self.body, mtime=0)
        if len(self.compressed) > len(self.body) * 0.9:
            self.compressed = None  # it was compressed already
        self.tag = sha256(self.body).hexdigest()[:32]
        kind = mimetypes.guess_type(path.name)[0]
        kind = "text/plain" if path.suffix in AS_TEXT else kind
        kind = kind or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        hashed = HASHED.search(path.name)
        self.headers = {
            "Content-Type": kind,
            "Cache-Control": YEAR if hashed else REVALIDATE,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        # The policy of a page, as a header also before its first tag.
        found = path.suffix == ".html" and POLICY.search(self.body)
        if found:
            policy = unescape(found[1].decode())
            self.headers["Content-Security-Policy"] = policy


# The whole site, a few megabytes; a file that changes is read again.
read = lru_cache(maxsize=2_000)(lambda path, modified: File(path))


async def load(path):
    """Return a File, read and compressed beside the event loop."""
    return await asyncio.to_thread(read, path, path.stat().st_mtime_ns)


def accepts_gzip(request):
    """Tell whether a request accepts gzip, RFC 9110 §12.5.3."""
    accepted = request.headers.get("Accept-Encoding", "")
    for each in accepted.lower().split(","):
        coding, _, weight = each.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return weight.strip("0.") != "" or weight == ""
    return False


def respond(request, file):
    """Return a File as a request selects it: 200, 206, 304 or 416."""
    wanted = request.headers.get("Range")
    headers = {**file.headers, "Accept-Ranges": "bytes"}
    body, tag = file.body, f'"{file.tag}"'
    if file.compressed and not wanted and accepts_gzip(request):
        # Other bytes, other tag.
        body, tag = file.compressed, f'"{file.tag}-gzip"'
        headers["Content-Encoding"] = "gzip"
    headers["ETag"] = tag
    known = request.headers.get("If-None-Match", "")
    if known == "*" or tag in re.findall(r'"[^"]*"', known):
        return raw(b"", 304, headers)
    # A range of a version that the client has in part, or the whole.
    if not wanted or request.headers.get("If-Range", tag) != tag:
        return raw(body, 200, headers)
    total = len(body)
    match = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", wanted.strip())
    if not match or match[0] == "bytes=-":
        return raw(body, 200, headers)  # several ranges, or none
    if match[1]:
        start, end = int(match[1]), int(match[2] or total - 1)
        if end < start and match[2]:
            return raw(body, 200, headers)
    else:
        start, end = max(total - int(match[2]), 0), total - 1
    if start >= total:
        headers["Content-Range"] = f"bytes */{total}"
        return raw(b"", 416, headers)
    end = min(end, total - 1)
    headers["Content-Range"] = f"bytes {start}-{end}/{total}"
    return raw(body[start : end + 1], 206, headers)


@app.after_server_start
async def say_where(app):
    print(f"Open http://127.0.0.1:{PORT}/  (Ctrl-C stops)", flush=True)


if __name__ == "__main__":
    if not (SITE / "index.html").is_file():
        sys.exit(f"no site in {SITE}: run make build")
    try:
        listener = socket.create_server(("127.0.0.1", PORT))
    except OSError:
        sys.exit(f"port {PORT} is taken: make serve PORT={PORT + 1}")
    app.run(
        sock=listener,
        protocol=HardenedWebSocketProtocol,
        single_process=True,
        motd=False,
    )
