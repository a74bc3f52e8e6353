#!/bin/sh
# Where the time of a request goes: ten on a connection each, then ten
# on one. Each line shows when a part had ended, in seconds: DNS
# lookup, TCP, TLS (0 without), first byte, last byte.
#
# Run:    sh trips.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000), and may be any other
# Source: curl's timings, https://curl.se/docs/manpage.html#-w
set -eu
URL=${URL:-http://127.0.0.1:8000}

# --8<-- [start:trips]
TIMES='%{time_namelookup} %{time_connect} %{time_appconnect}'
TIMES="$TIMES %{time_starttransfer} %{time_total}"

get() {
  # Discard the body; print the times of each transfer.
  curl --silent --show-error --fail-early --user-agent curl \
    --max-time 30 --write-out "%{stderr}$TIMES\n" "$@" 2>&1 >/dev/null
}

for _ in 1 2 3 4 5 6 7 8 9 10; do
  get "$URL"
done
echo
get "$URL" "$URL" "$URL" "$URL" "$URL" \
    "$URL" "$URL" "$URL" "$URL" "$URL"
# --8<-- [end:trips]
