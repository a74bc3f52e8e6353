#!/bin/sh
# Submit a job to the hardened queue; print what it is now.
#
# Run:    sh submit.sh
# Try:    SECONDS_OF_WORK=20 KEY=bob-key sh submit.sh
# Needs:  server_hardened.py (or run_all.py), running; its address is
#         in URL (default http://127.0.0.1:8000)
# Source: 202 Accepted, RFC 9110 §15.3.3
set -eu

# --8<-- [start:submit]
curl --fail-with-body --silent --show-error \
  --header "Authorization: Bearer ${KEY:-alice-key}" \
  --header 'Content-Type: application/json' \
  --data "{\"seconds\": ${SECONDS_OF_WORK:-5}}" \
  "${URL:-http://127.0.0.1:8000}/jobs"
# --8<-- [end:submit]
