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
send_request() { curl --silent --show-error --fail "$@"; }

location=$(send_request --json "{\"seconds\": $SECONDS_OF_WORK}" \
  --output /dev/null --write-out '%header{location}' "$URL/jobs")
if [ -z "$location" ]; then
  echo "$URL is not a job server: no Location" >&2
  exit 1
fi

# --no-buffer: pass each event on as it arrives, not 16 kB at once.
# The last line says that curl reached the end of the stream.
{
  send_request --no-buffer "$URL$location" && printf '\nend: \n'
} | {
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
        echo "$URL is not a job server: the stream ended early" >&2
        exit 1
        ;;
    esac
  done
  exit 1 # curl has reported the error
}
# --8<-- [end:client]
