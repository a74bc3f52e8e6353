#!/bin/sh
# Short polling with curl: every poll is a new connection.
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
request() {
  curl --silent --show-error --fail --location --max-time 60 "$@"
}

not_a_job_server() {
  echo "$URL is not a job server: $(echo "$1" | head -n 1)" >&2
  exit 1
}

location=$(request --json "{\"seconds\": $SECONDS_OF_WORK}" \
  --output /dev/null --write-out '%header{location}' "$URL/jobs")
case $location in
  '') not_a_job_server "no Location" ;;
  *://*) job_url=$location ;;
  //*) job_url=${URL%%//*}$location ;;
  /*) job_url=$(echo "$URL" | cut -d/ -f1-3)$location ;;
  *) job_url=$URL/$location ;;  # relative to $URL/jobs
esac

while sleep "$INTERVAL"; do
  # A poll may be repeated, the submission not. curl obeys
  # Retry-After, and backs off without it.
  job=$(request --retry 5 --retry-connrefused \
    --retry-max-time 600 "$job_url")
  printf '%s\n' "$job"
  case $(printf %s "$job" | tr -d ' \t\r\n') in
    *'"status":"pending"'*) ;;
    *'"status":"done"'*) exit ;;
    *'"status":"failed"'*) exit 1 ;;
    *) not_a_job_server "$job" ;;
  esac
done
# --8<-- [end:client]
