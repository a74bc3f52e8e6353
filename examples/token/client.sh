#!/bin/sh
# Hand in a job, keep the token, ask what became of it.
#
# Run:    sh client.sh
# Needs:  curl 7.84 or later, and server.py, running; its address
#         is in URL (default http://127.0.0.1:8000)
# Source: 202 Accepted, RFC 9110 §15.3.3
set -eu
URL=${URL:-http://127.0.0.1:8000}

# --8<-- [start:submit]
token_path=$(
  curl --silent --show-error --fail \
    --json '{"seconds": 1}' \
    --output /dev/null --write-out '%header{location}' \
    "$URL/jobs"
)
if [ -z "$token_path" ]; then
  echo "$URL does not answer as a job server" >&2
  exit 1
fi
echo "ask at $token_path"
# --8<-- [end:submit]

# --8<-- [start:ask]
ask() {
  # Location is a path here, so it follows the server's name.
  job=$(curl --silent --show-error --fail "$URL$token_path")
  case $job in
    *'"status":"pending"'* | *'"status":"done"'*) echo "$job" ;;
    *) echo "$URL does not answer as a job server" >&2; exit 1 ;;
  esac
}

ask
sleep 2
ask
# --8<-- [end:ask]
