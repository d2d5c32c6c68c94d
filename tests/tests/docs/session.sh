# What the commands of a document find around them. The test puts the block behind this.
set -euo pipefail

# A status that says that something is wrong fails the block.
curl() { command curl --fail-with-body "$@"; }

# Waits for a condition, for as long as anything may take.
until_true() {
  local deadline=$((SECONDS + PATIENCE))
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "waited too long for: $*"; return 1; }
    sleep 0.05
  done
}

# Runs what a reader leaves running, and goes on when it serves. It is asked to end by the test; its code is in a file then.
serve() {
  local words=$1 log
  shift
  # A setting of nodes that answer queries.
  [ "$words" != "the node serves" ] || set -- env -u TIDEMARK_HTTP "$@"
  log=$(mktemp "$LOGS/$$.XXXXXX.log")
  (trap : TERM; status=0; "$@" || status=$?; echo "$status" >"$log.code") >"$log" 2>&1 </dev/null &
  serves() { [ -e "$log.code" ] || grep -q -- "$words" "$log"; }
  until_true serves
  if [ -e "$log.code" ]; then cat "$log"; echo "ended by itself: $*"; return 1; fi
  case $words in *coordinator* | *--at*) until_true command curl -sf -o "$log.ready" "http://$TIDEMARK_HTTP/readyz" ;; esac
}

# Runs what a reader looks at until Ctrl-C: until it has shown something.
look() {
  local shown status=0
  shown=$(mktemp "$LOGS/$$.XXXXXX.shown")
  "$@" >"$shown" </dev/null &
  shows() { [ -s "$shown" ] || ! kill -0 $!; }
  until_true shows
  kill -INT $! || true
  wait $! || status=$?
  cat "$shown"
  [ -s "$shown" ] && [ "$status" -eq 0 ]
}

# An event of an hour ago, committed.
some_history() {
  local time
  time=$(date -u -d '1 hour ago' +%Y-%m-%dT%H:%M:%SZ)
  curl -s "$TIDEMARK_HTTP/v1/events" -d "{\"site\":\"example.com\",\"url\":\"/\",\"visitor\":\"you\",\"time\":\"$time\"}"
  committed() { [ -n "$(target/release/tidemark segments --from -24h)" ]; }
  until_true committed
}
