#!/bin/sh
# Publish an event, and hand in a job, whose end comes as an event.
#
# Run:    sh publish.sh
# Needs:  cluster.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: 201 Created, RFC 9110 §15.3.2; 202 Accepted, RFC 9110 §15.3.3
set -eu

# --8<-- [start:publish]
URL=${URL:-http://127.0.0.1:8000}
for what in events jobs; do
  curl --fail-with-body --silent --show-error \
    --header 'Content-Type: application/json' \
    --header "Idempotency-Key: $what-$$-$(date +%s)" \
    --data '{"text": "hello"}' \
    "$URL/$what"
  echo
done
# --8<-- [end:publish]
