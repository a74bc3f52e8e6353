#!/bin/sh
# Short polling with curl: every question is a new connection.
#
# Run:    sh client.sh
# Needs:  curl 7.84 or later, and server.py, running; its address
#         is in URL (default http://127.0.0.1:8000)
# Source: 202 Accepted, RFC 9110 §15.3.3
set -eu
URL=${URL:-http://127.0.0.1:8000}
SECONDS_OF_WORK=${SECONDS_OF_WORK:-4.5}
INTERVAL=${INTERVAL:-1}

# --8<-- [start:client]
ask() { curl --silent --show-error --fail "$@"; }

location=$(ask --json "{\"seconds\": $SECONDS_OF_WORK}" \
  --output /dev/null --write-out '%header{location}' "$URL/jobs")

while [ -n "$location" ]; do
  sleep "$INTERVAL"
  # Location is a path here, so it follows the server's name.
  job=$(ask "$URL$location")
  echo "$job"
  case $job in
    *'"status":"pending"'*) ;;
    *'"status":"done"'*) exit ;;
    *'"status":"failed"'*) exit 1 ;;
    *) break ;;
  esac
done
echo "$URL does not answer as a job server" >&2
exit 1
# --8<-- [end:client]
