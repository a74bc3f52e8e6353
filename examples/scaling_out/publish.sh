#!/bin/sh
# Publish an event, and submit a job whose result will be an event.
#
# Run:    sh publish.sh
# Needs:  cluster.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: 201 Created, RFC 9110 §15.3.2; 202 Accepted, RFC 9110 §15.3.3
set -eu

# --8<-- [start:publish]
URL=${URL:-http://127.0.0.1:8000}
for path in events jobs; do
  # 128 random bits: no other publisher uses the same key.
  key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  curl --fail-with-body --silent --show-error \
    --header 'Content-Type: application/json' \
    --header "Idempotency-Key: $key" \
    --data '{"text": "hello"}' \
    "$URL/$path"
  echo
done
# --8<-- [end:publish]
