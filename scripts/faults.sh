#!/usr/bin/env bash
# faults.sh [ROW] [--long]: injects the faults of docs/RELIABILITY.md, and prints a line for each.
#
# Without ROW all of them, one after the other. --long takes more records and injects more often: hours, for all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

row=row_
for argument in "$@"; do
    case $argument in
        --long) export KAFKA_ENVELOPE_FAULTS_LONG=1 ;;
        [0-9] | [0-9][0-9]) row=$(printf 'row_%02d_' "$((10#$argument))") ;;
        *) echo "usage: faults.sh [ROW] [--long]" >&2; exit 2 ;;
    esac
done

libs=$(bash scripts/kafka.sh)
export KAFKA_ENVELOPE_KAFKA_LIBS=$libs
cargo test --all-features --test it --no-run
log=$target/tmp/faults.log
mkdir -p "$target/tmp"
say "all that is printed goes to $log"
echo "| row | fault | times injected | records | lost | duplicates | bound | longest stall | |"
echo "|---|---|---|---|---|---|---|---|---|"
# The lines of the rows out of all that is printed, as they come.
status=0
with_broker cargo test --quiet --all-features --test it -- "::$row" --nocapture --test-threads 1 2>&1 |
    tee "$log" | sed -u -n -e 's/^[^|]*\(| [0-9]* | .* |\)$/\1/p' -e 's/^.*\(row [0-9]*[:,] .*\)$/\1/p' || status=$?
# A row that fails before its end has no line.
[ "$status" = 0 ] || say "failed: $(sed -n 's/^    \(fault_table::.*::row_.*\)$/\1/p' "$log" | sort -u | tr '\n' ' ')"
exit "$status"
