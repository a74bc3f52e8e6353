#!/bin/sh
# Server-sent events with curl: they are lines of text.
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
ask() { curl --silent --show-error --fail "$@"; }

location=$(ask --json "{\"seconds\": $SECONDS_OF_WORK}" \
  --output /dev/null --write-out '%header{location}' "$URL/jobs")

# --no-buffer: hand on each event as it comes, and not 16 kB at once.
# The last line tells that curl came to a good end.
{ ask --no-buffer "$URL$location/events" && printf '\nend: \n'; } | {
  while read -r field value; do
    case $field in
      event:) event=$value ;;
      data:)
        echo "$event $value"
        case $event in
          done) exit 0 ;;
          failed) exit 1 ;;
        esac
        ;;
      end:)
        echo "$URL does not answer as a job server" >&2
        exit 1
        ;;
    esac
  done
  exit 1 # curl has said why
}
# --8<-- [end:client]
