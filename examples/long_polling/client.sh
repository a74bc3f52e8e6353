#!/bin/sh
# Long polling with curl: each question is held by the server.
#
# Run:    sh client.sh
# Needs:  curl 7.84 or later, and server.py, running; its address
#         is in URL (default http://127.0.0.1:8000)
# Source: Prefer and wait, RFC 7240 §2 and §4.3
set -eu
URL=${URL:-http://127.0.0.1:8000}
SECONDS_OF_WORK=${SECONDS_OF_WORK:-4.5}
WAIT=${WAIT:-25}

# --8<-- [start:client]
# curl waits for as long as it takes, unless it is told otherwise.
ask() {
  curl --silent --show-error --fail --max-time $((WAIT + 10)) "$@"
}

location=$(ask --json "{\"seconds\": $SECONDS_OF_WORK}" \
  --output /dev/null --write-out '%header{location}' "$URL/jobs")

while [ -n "$location" ]; do
  # Location is a path here, so it follows the server's name.
  job=$(ask --header "Prefer: wait=$WAIT" \
    --write-out ' %header{preference-applied}' "$URL$location")
  echo "$job"
  case $job in
    *'"status":"pending"'*wait=*) ;;  # held: ask again at once
    *'"status":"pending"'*) sleep 1 ;;
    *'"status":"done"'*) exit ;;
    *'"status":"failed"'*) exit 1 ;;
    *) break ;;
  esac
done
echo "$URL does not answer as a job server" >&2
exit 1
# --8<-- [end:client]
