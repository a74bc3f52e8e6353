#!/bin/sh
# Publish messages in the feed: each argument is one.
#
# Run:    sh feed_publish.sh hello
# Needs:  curl 7.82 or later, and feed_server.py, running; its
#         address is in URL (default http://127.0.0.1:8000)
# Source: curl --json, https://curl.se/docs/manpage.html#--json
set -eu
for text in "$@"; do
  # JSON wants a backslash before each of these.
  text=$(printf '%s' "$text" | sed 's/["\\]/\\&/g')
  curl --silent --show-error --fail --max-time 60 \
    --json "{\"text\": \"$text\"}" \
    "${URL:-http://127.0.0.1:8000}/messages"
  echo
done
