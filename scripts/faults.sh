#!/usr/bin/env bash
# faults.sh [ROW] [--long]: injects the faults of docs/RELIABILITY.md, and prints a line for each.
#
# Without ROW all of them, one after the other. --long takes more records and injects more often: hours, for all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

row=
for argument in "$@"; do
    case $argument in
        --long) export KAFKA_ENVELOPE_FAULTS_LONG=1 ;;
        [0-9] | [0-9][0-9]) row=$(printf 'row_%02d_' "$((10#$argument))") ;;
        *) echo "usage: faults.sh [ROW] [--long]" >&2; exit 2 ;;
    esac
done

libs=$(bash scripts/kafka.sh)
export KAFKA_ENVELOPE_KAFKA_LIBS=$libs
ensure_faketime
mkdir -p "$target/tmp"
KAFKA_ENVELOPE_FAULTS_TABLE=$(mktemp "$target/tmp/faults.XXXXXX")
export KAFKA_ENVELOPE_FAULTS_TABLE
say "building"
cargo test --all-features --test it --no-run
echo "| row | fault | times | records | lost | duplicates | bound | longest stall | |"
echo "|---|---|---|---|---|---|---|---|---|"
# Lines appear as rows end.
tail -n +1 -f "$KAFKA_ENVELOPE_FAULTS_TABLE" --pid $$ &
status=0
with_broker cargo test -q --all-features --test it -- "fault_table::${row:-}" ${row:+} --test-threads 1 >"$KAFKA_ENVELOPE_FAULTS_TABLE.log" 2>&1 || status=$?
[ "$status" = 0 ] || tail -n 60 "$KAFKA_ENVELOPE_FAULTS_TABLE.log" >&2
exit "$status"
