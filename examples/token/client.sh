#!/bin/sh
# Submit a job, keep its path, and poll it twice.
#
# Run:    sh client.sh
# Needs:  curl 7.84 or later, and server.py, running; its address
#         is in URL (default http://127.0.0.1:8000)
# Source: 202 Accepted, RFC 9110 §15.3.3
set -eu
URL=${URL:-http://127.0.0.1:8000}

# --8<-- [start:submit_job]
location=$(
  curl --silent --show-error --fail \
    --json '{"seconds": 1}' \
    --output /dev/null --write-out '%header{location}' \
    "$URL/jobs"
)
if [ -z "$location" ]; then
  echo "$URL is not a job server: no Location" >&2
  exit 1
fi
echo "poll $location"
# --8<-- [end:submit_job]

# --8<-- [start:poll]
poll() {
  # Location is a path here, so it follows the server's name.
  job=$(curl --silent --show-error --fail "$URL$location")
  case $job in
    *'"status":"pending"'* | *'"status":"done"'*) echo "$job" ;;
    *) echo "$URL is not a job server: $job" >&2; exit 1 ;;
  esac
}

poll
sleep 2
poll
# --8<-- [end:poll]
