#!/bin/sh
# Publish a notification; print its id.
#
# A retry with the same KEY is stored once, so it is safe to run this
# again when no response arrived.
#
# Run:    sh publish.sh
# Try:    TO=users/ann sh publish.sh
# Needs:  server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: 201 Created, RFC 9110 §15.3.2
set -eu

# --8<-- [start:publish]
URL=${URL:-http://127.0.0.1:8000}
# 128 random bits: no other publisher uses the same key.
KEY=${KEY:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
curl --fail-with-body --silent --show-error \
  --header 'Content-Type: application/json' \
  --header "Idempotency-Key: $KEY" \
  --data '{"text": "version 42 is out"}' \
  "$URL/${TO:-topics/deploys}"
# --8<-- [end:publish]
