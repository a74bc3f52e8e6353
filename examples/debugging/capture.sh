#!/bin/sh
# Who opens and who ends each connection, as TCP has it.
#
# Run:    sudo sh capture.sh
# Needs:  tcpdump, and server.py, running; its port is in PORT
#         (default 8000), the network card in CARD (default lo; any
#         is all), as in: sudo CARD=any PORT=443 sh capture.sh
# Source: https://www.tcpdump.org/manpages/tcpdump.1.html
set -eu

# --8<-- [start:capture]
PORT=${PORT:-8000}
CARD=${CARD:-lo}
# S opens, F ends, R breaks off; a dot is an acknowledgement.
# tcp[…] is IPv4 only; in IPv6 the same flags are in byte 53.
tcpdump -i "$CARD" -n -t -l --immediate-mode \
  "tcp port $PORT and (tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0
   or ip6[53] & 7 != 0)" |
  sed -u 's/, .*//'
# --8<-- [end:capture]
