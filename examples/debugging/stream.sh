#!/bin/sh
# A stream of events, as it comes.
#
# Run:    sh stream.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: https://curl.se/docs/manpage.html
set -eu

# --8<-- [start:stream]
URL=${URL:-http://127.0.0.1:8000}
# Without --no-buffer, curl gathers what is not for a terminal.
curl --verbose --no-progress-meter --stderr - --no-buffer \
  --header 'Accept: text/event-stream' \
  "$URL/events"
# --8<-- [end:stream]
