#!/bin/sh
# A request and its response, with all headers.
#
# Run:    sh poll.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: https://curl.se/docs/manpage.html
set -eu

# --8<-- [start:poll]
URL=${URL:-http://127.0.0.1:8000}
# --verbose writes to stderr; --stderr - sends that to stdout.
curl --verbose --no-progress-meter --max-time 60 --stderr - "$URL/poll"
# --8<-- [end:poll]
