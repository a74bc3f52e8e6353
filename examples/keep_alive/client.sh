#!/bin/sh
# Connection reuse with curl: one curl for three URLs, then one each.
#
# Run:    sh client.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: Persistence, RFC 9112 §9.3
set -eu
URL=${URL:-http://127.0.0.1:8000}

# --8<-- [start:client]
get() {
  curl --silent --show-error --fail --fail-early --max-time 10 \
    --write-out '\n' "$@"
}

echo "One curl for all requests"
get "$URL" "$URL" "$URL"

echo "A curl for each request"
for _ in 1 2 3; do
  get "$URL"
done
# --8<-- [end:client]
