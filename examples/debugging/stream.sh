#!/bin/sh
# An event stream, as it arrives.
#
# Run:    sh stream.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: https://curl.se/docs/manpage.html
set -eu

# --8<-- [start:stream]
URL=${URL:-http://127.0.0.1:8000}
# Without --no-buffer, curl buffers what does not go to a terminal.
# It runs until the stream ends.
curl --verbose --no-progress-meter --stderr - --no-buffer \
  --header 'Accept: text/event-stream' \
  "$URL/events"
# --8<-- [end:stream]
