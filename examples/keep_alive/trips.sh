#!/bin/sh
# Where the time of a request goes: ten over a connection each, and
# ten over one. A line says when each part had ended, in seconds:
# name lookup, TCP, TLS (0 without), the first byte, all of it.
#
# Run:    sh trips.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000), and may be any other
# Source: The times curl tells, https://curl.se/docs/manpage.html#-w
set -eu
URL=${URL:-http://127.0.0.1:8000}

# --8<-- [start:trips]
TIMES='%{time_namelookup} %{time_connect} %{time_appconnect}'
TIMES="$TIMES %{time_starttransfer} %{time_total}"

ask() {
  # The answer goes nowhere; -w follows each transfer.
  curl --silent --show-error --fail-early --user-agent curl \
    --write-out "%{stderr}$TIMES\n" "$@" 2>&1 >/dev/null
}

for _ in 1 2 3 4 5 6 7 8 9 10; do
  ask "$URL"
done
echo
ask "$URL" "$URL" "$URL" "$URL" "$URL" \
    "$URL" "$URL" "$URL" "$URL" "$URL"
# --8<-- [end:trips]
