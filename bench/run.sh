#!/usr/bin/env bash
# Builds the release and runs the end-to-end scenarios on this machine: one table, and JSON.
#
#   bench/run.sh                              all scenarios
#   bench/run.sh rows                         those with that in their name
#   bench/run.sh --json now.json              writes the figures
#   bench/run.sh --baseline before.json       compares with figures that were written before
set -euo pipefail
here="$PWD"
cd "$(dirname "$0")/.."
arguments=()
while (($#)); do
  case "$1" in
    # Files are where the caller stands.
    --json | --baseline)
      (($# > 1)) || { echo "$1 takes a file" >&2; exit 2; }
      case "$2" in /*) file="$2" ;; *) file="$here/$2" ;; esac
      arguments+=("$1" "$file"); shift 2 ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
cargo build --release
exec cargo bench -q -p tidemark-tests --bench scenarios -- "${arguments[@]}"
