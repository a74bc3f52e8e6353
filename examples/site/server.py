# /// script
# requires-python = ">=3.11"
# dependencies = ["sanic==25.12.1"]
# ///
"""This site, with its examples live: what `make serve` runs.

Serves the built pages, and mounts the very handlers that the pages
print, each under a prefix of its own.

- Run: `make serve`
- Source: Blueprints, https://sanic.dev/en/guide/best-practices/blueprints.html
"""

import os
import socket
import sys
from pathlib import Path

from sanic import Sanic, file, json, redirect

from examples.keep_alive.server import bp as keep_alive
from examples.long_polling.server import MAX_WAIT
from examples.long_polling.server import bp as long_polling
from examples.server_sent_events.server import bp as server_sent_events
from examples.short_polling.server import bp as short_polling
from examples.token.server import bp as token
from examples.websockets.server import bp as websockets

SITE = Path(os.environ.get("SITE", "site")).resolve()
PORT = int(os.environ.get("PORT", 8000))

# Our own log line is enough; warnings and errors still show.
app = Sanic("site", configure_logging=False)
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
app.blueprint(keep_alive, url_prefix="/live/keep_alive")


@app.get("/assets/live.json")
async def live(request):
    """Tell the panels that there is a server to talk to.

    The built site has a file of this name that says the opposite.
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
        return await file(SITE / "404.html", status=404)
    # Programs and recordings are shown as text, not downloaded.
    text = target.suffix in {".py", ".sh", ".txt"}
    return await file(
        target,
        mime_type="text/plain; charset=utf-8" if text else None,
        request_headers=request.headers,
    )


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
    app.run(sock=listener, single_process=True, motd=False)
