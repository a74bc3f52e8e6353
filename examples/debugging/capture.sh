#!/bin/sh
# Which side opens and which side closes each TCP connection.
#
# Run:    sudo sh capture.sh
# Needs:  tcpdump, and server.py, running; its port is in PORT
#         (default 8000), the network interface in INTERFACE (default
#         lo; any is all): sudo INTERFACE=any PORT=443 sh capture.sh
# Source: https://www.tcpdump.org/manpages/tcpdump.1.html
set -eu

# --8<-- [start:capture]
PORT=${PORT:-8000}
INTERFACE=${INTERFACE:-lo}
# S opens, F ends, R resets; a dot is an acknowledgement.
# tcp[…] is IPv4 only; in IPv6 the same flags are in byte 53.
FLAGS="tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0 or ip6[53] & 7 != 0"
tcpdump -i "$INTERFACE" -n -t -l --immediate-mode \
  "tcp port $PORT and ($FLAGS)" |
  sed -u 's/, .*//'
# --8<-- [end:capture]
