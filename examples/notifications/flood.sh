#!/bin/sh
# Publish a hundred large events, and stop at the first that fails.
#
# A hundred of them exceed every buffer between the server and a client
# that does not read.
#
# Run:    sh flood.sh
# Needs:  broadcast.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: --write-out and --max-time, curl(1)
set -eu

# --8<-- [start:flood]
URL=${URL:-http://127.0.0.1:8000}
MAX_TIME=${MAX_TIME:-3} # seconds for each response
n=1
while [ "$n" -le 100 ]; do
  status=$(
    printf '{"text": "%d %090000d"}' "$n" 0 |
      curl --silent --output /dev/null --write-out '%{http_code}' \
        --max-time "$MAX_TIME" --data @- "$URL/events"
  ) || status="no response"
  if [ "$status" != 202 ]; then
    echo "event $n: $status"
    break
  fi
  n=$((n + 1))
done
echo "$((n - 1)) events published"
curl --fail --silent --show-error --max-time "$MAX_TIME" "$URL/subscribers"
echo
# --8<-- [end:flood]
