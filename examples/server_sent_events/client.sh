#!/bin/sh
# Read server-sent events with curl: they are lines of text.
#
# Run:    sh client.sh
# Needs:  curl 7.84 or later, and server.py, running; its address
#         is in URL (default http://127.0.0.1:8000)
# Source: server-sent events, WHATWG HTML §9.2,
#         https://html.spec.whatwg.org/multipage/server-sent-events.html
set -eu
URL=${URL:-http://127.0.0.1:8000}
SECONDS_OF_WORK=${SECONDS_OF_WORK:-4.5}

# --8<-- [start:client]
send_request() {
  curl --silent --show-error --fail --location "$@"
}

not_a_job_server() {
  echo "$URL is not a job server: $1" >&2
  exit 1
}

location=$(send_request --json "{\"seconds\": $SECONDS_OF_WORK}" \
  --output /dev/null --write-out '%header{location}' "$URL/jobs")
case $location in
  '') not_a_job_server "no Location" ;;
  *://*) job_url=$location ;;
  //*) job_url=${URL%%//*}$location ;;
  /*) job_url=$(echo "$URL" | cut -d/ -f1-3)$location ;;
  *) job_url=$URL/$location ;;  # relative to $URL/jobs
esac

# --no-buffer: pass each event on as it arrives, not 16 kB at once.
# END: curl has reached the end of the stream.
CR=$(printf '\r') BOM=$(printf '\357\273\277') END=$(printf '\004')
# The stream may be requested again, the submission not.
{
  send_request --no-buffer --retry 5 --retry-connrefused \
    --retry-max-time 600 "$job_url" && echo "$END"
} | {
  event=message data=
  while IFS= read -r line; do
    line=${line#"$BOM"} line=${line%"$CR"}
    value=${line#*:}
    value=${value# } # the blank after the colon is optional
    case $line in
      *"$END") not_a_job_server "the stream ended early" ;;
      event:*) event=$value ;;
      data:*) data=$value ;;
      '') # an empty line ends an event
        [ -z "$data" ] || echo "$event $data"
        case $event in
          done) exit 0 ;;
          failed) exit 1 ;;
        esac
        event=message data=
        ;;
    esac
  done
  exit 1 # curl has reported the error
}
# --8<-- [end:client]
