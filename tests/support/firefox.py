#!/usr/bin/env python3
"""Run Firefox for Playwright: firefox.py OPTIONS-OF-FIREFOX.

Playwright drives the Firefox that a system has by WebDriver BiDi (its channel "moz-firefox"). It
expects the newest Firefox, and stops when a command is unknown; Debian has the release with
extended support, in which a command can be missing. This program stands between the two and says
that such a command, which changes nothing that a proof looks at, was done.

Selenium would need geckodriver, which neither Debian 12 nor a package registry has.
"""

import json
import re
import subprocess
import sys
from threading import Thread

from websockets.sync.client import connect
from websockets.sync.server import serve

# Playwright 1.65 sends it, so that pages see light colours, which are the default here.
OPTIONAL = "emulation.setMediaFeaturesOverride"
PLAIN = {"compression": None, "max_size": None, "ping_interval": None}


# Playwright opens each page in a window; a tab takes half the time.
CREATE, WINDOW, TAB = "browsingContext.create", '"type":"window"', '"type":"tab"'


def mended(message):
    """Return a response of Firefox, or success where an optional command is unknown to it."""
    if OPTIONAL in message and (response := json.loads(message)).get("message") == OPTIONAL:
        return json.dumps({"type": "success", "id": response["id"], "result": {}})
    return message


def main():
    firefox = subprocess.Popen(["firefox-esr", *sys.argv[1:]], stderr=subprocess.PIPE, text=True)
    listening = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
    address = next(hit[1] for line in firefox.stderr if (hit := listening.search(line)))

    def relay(playwright):
        with connect(f"{address}/session", **PLAIN) as session:

            def respond():
                for message in session:
                    playwright.send(mended(message))

            Thread(target=respond, daemon=True).start()
            for message in playwright:
                session.send(message.replace(WINDOW, TAB) if CREATE in message else message)

    with serve(relay, "127.0.0.1", 0, **PLAIN) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        print(f"WebDriver BiDi listening on ws://127.0.0.1:{port}", file=sys.stderr, flush=True)
        for line in firefox.stderr:
            sys.stderr.write(line)
        return firefox.wait()


if __name__ == "__main__":
    sys.exit(main())
