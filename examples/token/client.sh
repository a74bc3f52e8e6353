#!/bin/sh
# Submit a job, keep its URL, and poll it twice.
#
# Run:    sh client.sh
# Needs:  curl 7.84 or later, and server.py, running; its address
#         is in URL (default http://127.0.0.1:8000)
# Source: 202 Accepted, RFC 9110 §15.3.3
set -eu
URL=${URL:-http://127.0.0.1:8000}

# --8<-- [start:submit_job]
request() {
  curl --silent --show-error --fail --location --max-time 60 "$@"
}

not_a_job_server() {
  echo "$URL is not a job server: $(echo "$1" | head -n 1)" >&2
  exit 1
}

location=$(request --json '{"seconds": 1}' \
  --output /dev/null --write-out '%header{location}' "$URL/jobs")
echo "Location: $location"
case $location in
  '') not_a_job_server "no Location" ;;
  *://*) job_url=$location ;;
  //*) job_url=${URL%%//*}$location ;;
  /*) job_url=$(echo "$URL" | cut -d/ -f1-3)$location ;;
  *) job_url=$URL/$location ;;  # relative to $URL/jobs
esac
# --8<-- [end:submit_job]

# --8<-- [start:poll]
poll() {
  # A poll may be repeated, the submission not.
  job=$(request --retry 5 --retry-connrefused \
    --retry-max-time 600 "$job_url")
  case $(printf %s "$job" | tr -d ' \t\r\n') in
    *'"status":"pending"'* | *'"status":"done"'*)
      printf '%s\n' "$job" ;;
    *) not_a_job_server "$job" ;;
  esac
}

poll
sleep 2
poll
# --8<-- [end:poll]
