#!/bin/sh
# Publish an event, "hello" or the text given; print its number.
#
# Run:    sh publish.sh
# Needs:  server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: 201 Created, RFC 9110 §15.3.2
set -eu

# --8<-- [start:publish]
URL=${URL:-http://127.0.0.1:8000}
# JSON needs a backslash before each of these.
text=$(printf '%s' "${1:-hello}" | sed 's/["\\]/\\&/g')
curl --fail-with-body --silent --show-error \
  --header 'Content-Type: application/json' \
  --data "{\"text\": \"$text\"}" \
  "$URL/events"
echo
# --8<-- [end:publish]
