#!/bin/sh
# The handshake of a WebSocket, and the first bytes that come.
#
# Run:    sh handshake.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: RFC 6455 §1.3, whose key this is
set -eu

# --8<-- [start:handshake]
URL=${URL:-http://127.0.0.1:8000}
SECONDS_TO_LISTEN=${SECONDS_TO_LISTEN:-2}
# A socket stays open: curl gives up with 28, which is no failure.
curl --include --silent --show-error --http1.1 \
  --max-time "$SECONDS_TO_LISTEN" --output answer.bin \
  --header 'Connection: Upgrade' \
  --header 'Upgrade: websocket' \
  --header 'Sec-WebSocket-Version: 13' \
  --header 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
  "$URL/socket" || [ $? = 28 ]
cat -v answer.bin # frames are bytes: here M-^A, ^E, and the text
# --8<-- [end:handshake]
