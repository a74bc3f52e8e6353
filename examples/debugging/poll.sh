#!/bin/sh
# A request and its answer, with all headers.
#
# Run:    sh poll.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: https://curl.se/docs/manpage.html
set -eu

# --8<-- [start:poll]
URL=${URL:-http://127.0.0.1:8000}
# What --verbose says goes to stderr; here all goes to stdout.
curl --verbose --no-progress-meter --stderr - "$URL/poll"
# --8<-- [end:poll]
