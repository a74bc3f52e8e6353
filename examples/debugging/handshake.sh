#!/bin/sh
# The opening handshake of a WebSocket, and the first bytes after it.
#
# Run:    sh handshake.sh
# Needs:  curl, and server.py, running; its address is in URL
#         (default http://127.0.0.1:8000)
# Source: RFC 6455 §1.3, the key
set -eu

# --8<-- [start:handshake]
URL=${URL:-http://127.0.0.1:8000}
LISTEN_SECONDS=${LISTEN_SECONDS:-2}
# The connection stays open, so curl ends with its timeout (28).
curl --include --silent --show-error --http1.1 \
  --max-time "$LISTEN_SECONDS" --output response.bin \
  --header 'Connection: Upgrade' \
  --header 'Upgrade: websocket' \
  --header 'Sec-WebSocket-Version: 13' \
  --header 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
  "$URL/socket" || [ $? = 28 ]
cat -v response.bin # a frame is binary: M-^A, ^E, then the text
# --8<-- [end:handshake]
