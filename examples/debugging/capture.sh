#!/bin/sh
# Who opens and who ends each connection, as TCP has it.
#
# Run:    sudo sh capture.sh
# Needs:  tcpdump, and server.py, running; its port is in PORT
#         (default 8000), the network card in CARD (default lo)
# Source: https://www.tcpdump.org/manpages/tcpdump.1.html
set -eu

# --8<-- [start:capture]
PORT=${PORT:-8000}
CARD=${CARD:-lo}
# S opens, F ends, R breaks off; a dot is an acknowledgement.
tcpdump -i "$CARD" -n -t -l --immediate-mode \
  "tcp port $PORT and tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0" |
  sed -u 's/, .*//'
# --8<-- [end:capture]
